"""Adam with second moments that several elements share: those of a row, or of a slice along the shorter side."""

from __future__ import annotations

import torch
from torch import Tensor

from fallline.core.errors import InvalidValueError
from fallline.core.transform import Transform, transform, zeros
from fallline.core.types import At, Hyper, Reach, State

__all__ = ["ScaleBySharedAdam", "norm_subsets"]


@transform
class ScaleBySharedAdam(Transform):
    """Adam whose v averages mean(g^2) of every row, a vector being one, of every one of ``num_heads`` equal blocks of rows, or
    sum(g^2) of slices along the shorter side"""

    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    share: str = "mean of rows"
    num_heads: int = 0
    reach = Reach.MATRIX
    slots = {**zeros("m"), "v": lambda step, p: torch.zeros_like(step.pooled(p))}
    nonnegative = frozenset({"v"})

    def update(self, u: Tensor, at: At, *, m: Tensor, v: Tensor) -> tuple[Tensor, State]:
        m = m.lerp(u, 1 - self.b1)
        v = self.b2 * v + (1 - self.b2) * self.pooled(u * u)
        root = (v / (1 - self.b2**at.t)).sqrt() + self.eps
        if self._has_heads(u):
            root = root.repeat_interleave(u.shape[0] // self.num_heads, 0, output_size=u.shape[0])
        return m / (1 - self.b1**at.t) / root, {"m": m, "v": v}

    def _has_heads(self, x: Tensor) -> bool:
        return self.num_heads > 0 and x.dim() > 1

    def pooled(self, x: Tensor) -> Tensor:
        """x reduced over what shares a second moment; reduced dimensions stay, as ones."""
        if self.share != "mean of rows":
            return norm_subsets(x)
        if self._has_heads(x):
            rows, shape = self._rows_of_a_head(x), (-1, *(1 for _ in x.shape[1:]))
            return x.reshape(x.shape[0] // rows, -1).mean(1).view(shape)
        return x.mean(tuple(range(1, x.dim())) or (0,), keepdim=True) if x.dim() else x

    def _rows_of_a_head(self, x: Tensor) -> int:
        rows, left = divmod(x.shape[0], self.num_heads)
        if left or not rows:
            raise InvalidValueError(
                f"num_heads={self.num_heads} got a matrix of shape {tuple(x.shape)}, whose rows do not divide into as many "
                f"equal blocks. Expected queries or keys, of num_heads times the head's width rows. Give these parameters a "
                f"rule of their own in groups."
            )
        return rows


def norm_subsets(x: Tensor) -> Tensor:
    """Sums over slices along the shorter side of a matrix, which stay as ones; a vector as it is."""
    if x.dim() < 2:
        return x
    rows = x.shape[0]
    return x.sum(tuple(range(1, x.dim())) if rows * rows >= x.numel() else (0,), keepdim=True)
