"""Scale by the learning rate: the last step of every method. ``p <- p - lr * u``."""

from __future__ import annotations

from torch import Tensor

from fallline.core.transform import Transform, transform
from fallline.core.types import At, Hyper, State

__all__ = ["Descend", "descend"]


@transform
class Descend(Transform):
    """u <- lr u"""

    lr: Hyper

    def update(self, u: Tensor, at: At) -> tuple[Tensor, State]:
        return self.lr * u, {}


def descend(lr: Hyper) -> Descend:
    r"""Scale the update by the learning rate, :math:`u \leftarrow \mathrm{lr}\, u`; the executor then subtracts it."""
    return Descend(lr)
