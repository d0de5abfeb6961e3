"""Slow weights: every few steps go back part of the way to where the last such step began."""

from __future__ import annotations

from torch import Tensor

from fallline.core.hyper import Domain
from fallline.core.transform import Transform, transform
from fallline.core.types import At, Hyper, State
from fallline.transforms.average import clone, whole

__all__ = ["SlowWeights", "slow_weights"]


@transform
class SlowWeights(Transform):
    """each k-th step: phi <- phi + alpha (p' - phi) for the new iterate p' = p - u, and the parameter goes to phi"""

    k: int = 5
    alpha: Hyper = 0.5
    domains = {"alpha": Domain("[0, 1]")}
    slots = {"phi": clone}

    def update(self, u: Tensor, at: At, *, phi: Tensor) -> tuple[Tensor, State]:
        due = at.t % self.k == 0
        new = at.p - u
        phi = phi + due * self.alpha * (new - phi)
        return u + due * (new - phi), {"phi": phi}

    def average(self, p: Tensor, *, phi: Tensor) -> Tensor:
        return phi


def slow_weights(k: int = 5, alpha: Hyper = 0.5) -> SlowWeights:
    r"""Lookahead as the last link of any chain: every ``k`` steps :math:`\phi \leftarrow \phi + \alpha (p - \phi)`,
    :math:`p \leftarrow \phi` (Zhang et al., arXiv:1907.08610, algorithm 1). The chain's own momentum goes on."""
    whole("slow_weights", "k", k)
    return SlowWeights(k, alpha)
