"""A gradient corrected by how it has changed since the last iterate: MARS's scaled difference, exact or approximate."""

from __future__ import annotations

from torch import Tensor

from fallline.core.gradients import GradientAt
from fallline.core.hyper import NONNEGATIVE
from fallline.core.transform import Transform, transform, zeros
from fallline.core.types import At, Hyper, Reach, State
from fallline.transforms.average import clone
from fallline.transforms.recursive import previous_iterate

__all__ = ["Correct", "CorrectExactly", "correct"]


@transform
class Correct(Transform):
    """c = g + scale (g - h), h the last step's gradient; u <- c / max(1, ||c||), per tensor"""

    scale: Hyper
    reach = Reach.TENSOR
    slots = zeros("h")
    domains = {"scale": NONNEGATIVE}

    def _corrected(self, u: Tensor, at: At, h: Tensor) -> Tensor:
        c = u + self.scale * (at.t > 1) * (u - h)
        return c / c.norm().clamp(min=1.0)

    def update(self, u: Tensor, at: At, *, h: Tensor) -> tuple[Tensor, State]:
        return self._corrected(u, at, h), {"h": u}


@transform
class CorrectExactly(Correct):
    """The same with h the gradient of this step's batch at the last iterate x"""

    slots = {**zeros("h"), "x": clone}
    gradients = {"h": GradientAt(previous_iterate, lambda step, t: t > 1)}

    def update(self, u: Tensor, at: At, *, h: Tensor, x: Tensor) -> tuple[Tensor, State]:
        return self._corrected(u, at, h), {"x": at.p}


def correct(scale: Hyper, exact: bool = False) -> Correct:
    r"""The gradient, corrected and clipped per tensor, :math:`c_t = g_t + s\,(g_t - h_t)`, :math:`u = c_t / \max(1, \|c_t\|)`
    (Yuan et al., arXiv:2411.10438, equations 3.1 and 3.2). ``h`` is the gradient at the last iterate: of its own batch, which costs
    nothing, or ``exact``, of this step's batch, which costs another gradient. Expected first in a chain."""
    return CorrectExactly(scale) if exact else Correct(scale)
