"""Caution: drop the part of an update that the gradient of this very step disagrees with."""

from __future__ import annotations

from torch import Tensor

from fallline.core.transform import Transform, transform
from fallline.core.types import At, Reach, State

__all__ = ["Cautious", "cautious"]


@transform
class Cautious(Transform):
    """u <- u [u g > 0] d / (number of entries where u g > 0, plus 1), per tensor of d entries"""

    reach = Reach.TENSOR

    def update(self, u: Tensor, at: At) -> tuple[Tensor, State]:
        agree = (u * at.g > 0).to(u.dtype)
        return u * agree * (u.numel() / (agree.sum() + 1)), {}


def cautious() -> Cautious:
    r"""Cautious updates, :math:`u \leftarrow u \odot \phi\, d / (\|\phi\|_0 + 1)` with :math:`\phi = 1[u g_t > 0]` (Liang et al.,
    arXiv:2411.16085, algorithm 1). Place it after the moments and before decay: ``chain(ScaleByAdam(), cautious(), decay(0.1),
    descend(lr))``. The authors' code divides by the mean of the mask, at least 1e-3, which is the same without the 1."""
    return Cautious()
