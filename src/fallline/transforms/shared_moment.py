"""Adam with second moments that several elements share: those of a row, or of a slice along the shorter side."""

from __future__ import annotations

import torch
from torch import Tensor

from fallline.core.transform import Transform, transform, zeros
from fallline.core.types import At, Hyper, Reach, State

__all__ = ["ScaleBySharedAdam"]


@transform
class ScaleBySharedAdam(Transform):
    """Adam whose v averages mean(g^2) of every row, a vector being one, or sum(g^2) of slices along the shorter side"""

    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    share: str = "mean of rows"
    reach = Reach.MATRIX
    slots = {**zeros("m"), "v": lambda step, p: torch.zeros_like(step.pooled(p))}
    nonnegative = frozenset({"v"})

    def update(self, u: Tensor, at: At, *, m: Tensor, v: Tensor) -> tuple[Tensor, State]:
        m = m.lerp(u, 1 - self.b1)
        v = self.b2 * v + (1 - self.b2) * self.pooled(u * u)
        return m / (1 - self.b1**at.t) / ((v / (1 - self.b2**at.t)).sqrt() + self.eps), {"m": m, "v": v}

    def pooled(self, x: Tensor) -> Tensor:
        """x reduced over what shares a second moment; reduced dimensions stay, as ones."""
        within_rows = tuple(range(1, x.dim()))
        if self.share == "mean of rows":
            return x.mean(within_rows or (0,), keepdim=True) if x.dim() else x
        if x.dim() < 2:
            return x
        rows = x.shape[0]
        return x.sum(within_rows if rows * rows >= x.numel() else (0,), keepdim=True)
