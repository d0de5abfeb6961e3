"""Error feedback: what a compressor drops from an update is added to the next one."""

from __future__ import annotations

from torch import Tensor

from fallline.core.transform import Transform, transform, zeros
from fallline.core.types import At, Reach, State

__all__ = ["CompressToSigns", "compress_to_signs"]


@transform
class CompressToSigns(Transform):
    """u <- mean(|u + e|) sign(u + e), and e <- what that leaves out of u + e"""

    reach = Reach.TENSOR
    slots = zeros("e")

    def update(self, u: Tensor, at: At, *, e: Tensor) -> tuple[Tensor, State]:
        whole = u + e
        u = whole.abs().sum() / max(whole.numel(), 1) * whole.sign()
        return u, {"e": whole - u}


def compress_to_signs() -> CompressToSigns:
    r"""Signs with error feedback, :math:`p = u + e,\; u \leftarrow \frac{\|p\|_1}{d} \mathrm{sign}(p),\; e \leftarrow p - u` for each
    tensor of d entries. Placed after ``descend``, so that the error keeps its size when lr changes (Karimireddy et al.,
    arXiv:1901.09847, algorithm 1)."""
    return CompressToSigns()
