"""Weight decay: decoupled (AdamW), as an L2 penalty in the gradient, or proximal."""

from __future__ import annotations

from torch import Tensor

from fallline.core.hyper import NONNEGATIVE
from fallline.core.transform import Transform, transform
from fallline.core.types import At, Hyper, State

__all__ = ["AddL2", "Decay", "ProximalDecay", "add_l2", "decay", "proximal_decay"]


@transform
class Decay(Transform):
    """u <- u + weight_decay p"""

    weight_decay: Hyper

    def update(self, u: Tensor, at: At) -> tuple[Tensor, State]:
        return u + self.weight_decay * at.p, {}


@transform
class AddL2(Decay):
    """g <- g + weight_decay p, ahead of moments and scaling"""


@transform
class ProximalDecay(Transform):
    """u <- (u + shrink p) / (1 + shrink), after ``descend``: p - u becomes (p - u) / (1 + shrink)"""

    shrink: Hyper
    domains = {"shrink": NONNEGATIVE}

    def update(self, u: Tensor, at: At) -> tuple[Tensor, State]:
        return (u + self.shrink * at.p) / (1 + self.shrink), {}


def decay(weight_decay: Hyper) -> Decay:
    r"""Decoupled weight decay, :math:`u \leftarrow u + \lambda p`. Placed before ``descend`` it shrinks the parameter by
    :math:`\mathrm{lr}\,\lambda` a step (Loshchilov & Hutter, arXiv:1711.05101, algorithm 2; torch scales by lr likewise). Placed
    after ``descend`` it shrinks it by :math:`\lambda`, whatever lr is."""
    return Decay(weight_decay)


def add_l2(weight_decay: Hyper) -> AddL2:
    r"""L2 penalty, :math:`u \leftarrow u + \lambda p`. Placed first it enters the moments, as in the original Adam."""
    return AddL2(weight_decay)


def proximal_decay(shrink: Hyper) -> ProximalDecay:
    r"""Weight decay as a proximal step: after ``descend`` the new parameter is divided by :math:`1 + \mathrm{shrink}`, with
    :math:`\mathrm{shrink} = \mathrm{lr}\,\lambda` (Xie et al., arXiv:2208.06677, algorithm 1)."""
    return ProximalDecay(shrink)
