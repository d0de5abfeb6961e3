"""The median of gradients, tracked: an average that one outlier cannot move farther than a bound."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fallline.core.errors import unknown
from fallline.core.hyper import NONNEGATIVE, Domain
from fallline.core.transform import Transform, transform, zeros
from fallline.core.types import At, Hyper, Reach, State

__all__ = ["TrackMedian", "TrackMedianOfElements", "track_median"]


@transform
class TrackMedianOfElements(Transform):
    """m <- m + d min(tau / (tau + mu), tau / |d|),  d = u - m, for every element;  u <- m"""

    tau: Hyper = 0.1
    mu: Hyper = 0.0
    domains = {"tau": Domain("(0, inf)"), "mu": NONNEGATIVE}
    slots = zeros("m")

    def update(self, u: Tensor, at: At, *, m: Tensor) -> tuple[Tensor, State]:
        d = u - m
        m = m + (d * (self.tau / (self.tau + self.mu))).clamp(-self.tau, self.tau)
        return m, {"m": m}


@transform
class TrackMedian(Transform):
    """m <- m + d min(tau / (tau + mu), tau / ||d||),  d = u - m, for every tensor;  u <- m"""

    tau: Hyper = 1.0
    mu: Hyper = 0.0
    domains = {"tau": Domain("(0, inf)"), "mu": NONNEGATIVE}
    reach = Reach.TENSOR
    slots = zeros("m")

    def update(self, u: Tensor, at: At, *, m: Tensor) -> tuple[Tensor, State]:
        d = u - m
        m = m + d * (self.tau / d.norm().clamp(min=self.tau + self.mu))
        return m, {"m": m}


def track_median(tau: Hyper = 0.1, mu: Hyper = 0.0, of: Literal["elements", "tensors"] = "tensors") -> Transform:
    r"""A running median in the place of momentum, :math:`m \leftarrow m + \mathrm{clip}_\tau(u - m)`, which no outlier moves
    farther than ``tau`` (Schaipp et al., arXiv:2402.10030, section 3): a proximal step of length ``tau`` on
    :math:`\|u - m\|`, for each tensor, or on :math:`|u - m|`, for each element. With ``mu`` the distance is Huber's, a square
    below ``mu``; then small differences enter as in an average with the weight :math:`\tau / (\tau + \mu)`. m starts at zero.

    Raises ValueError for any other ``of``."""
    if of not in ("elements", "tensors"):
        raise unknown("of in track_median", str(of), ("elements", "tensors"))
    return TrackMedianOfElements(tau, mu) if of == "elements" else TrackMedian(tau, mu)
