"""Divide by a power of the norm over all tensors."""

from __future__ import annotations

from torch import Tensor

from fallline.core.hyper import Domain
from fallline.core.transform import Transform, transform
from fallline.core.types import At, Hyper, Reach, State

__all__ = ["ScaleByNormPower", "normalise"]


@transform
class ScaleByNormPower(Transform):
    """u <- u / ||u||^exponent, the norm taken over all tensors that run this chain"""

    exponent: Hyper = 1.0
    domains = {"exponent": Domain("[0, 1]")}
    reach = Reach.GROUP

    def measure(self, u: Tensor, at: At) -> Tensor:
        return u.square().sum()

    def update(self, u: Tensor, at: At) -> tuple[Tensor, State]:
        assert at.total is not None
        length = at.total.sqrt() + (at.total == 0)  # a zero gradient stays zero
        return u / length**self.exponent, {}


def normalise(exponent: Hyper = 1.0) -> ScaleByNormPower:
    r"""Divide by a power of the norm over all tensors, :math:`u \leftarrow u / \|u\|^\beta`."""
    return ScaleByNormPower(exponent)
