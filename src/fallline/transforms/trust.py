"""The trust ratio: make the length of a tensor's update proportional to the length of the tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from fallline.core.transform import Transform, transform
from fallline.core.types import At, Reach, State

__all__ = ["Trust", "ratio_or_one", "trust"]


@transform
class Trust(Transform):
    """u <- u ||p|| / ||u||, per tensor; 1 instead of the ratio where either norm is zero"""

    reach = Reach.TENSOR

    def update(self, u: Tensor, at: At) -> tuple[Tensor, State]:
        return u * ratio_or_one(at.p.norm(), u.norm()), {}


def trust() -> Trust:
    r"""Trust ratio, :math:`u \leftarrow u\,\|p\| / \|u\|` for each tensor (You et al., arXiv:1904.00962, algorithm 2)."""
    return Trust()


def ratio_or_one(above: Tensor, below: Tensor) -> Tensor:
    """above / below, or 1 where either is zero: a fresh bias or a vanished gradient keeps its plain step."""
    return torch.where((above > 0) & (below > 0), above / below, 1.0)
