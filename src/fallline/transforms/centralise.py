"""Gradient centralisation: take the mean out of every row, so that rows of weights keep their mean."""

from __future__ import annotations

from torch import Tensor

from fallline.core.transform import Transform, transform
from fallline.core.types import At, Reach, State

__all__ = ["Centralise", "centralise"]


@transform
class Centralise(Transform):
    """u_i <- u_i - mean(u_i), i a row of a matrix or a filter; vectors stay"""

    reach = Reach.MATRIX

    def update(self, u: Tensor, at: At) -> tuple[Tensor, State]:
        return u - u.mean(tuple(range(1, u.dim())), keepdim=True) if u.dim() > 1 else u, {}


def centralise() -> Centralise:
    r"""Gradient centralisation, :math:`u_i \leftarrow u_i - \mathrm{mean}(u_i)` over the inputs of each output unit (Yong et
    al., arXiv:2004.01461, eq. 1). Placed first it centralises the gradient, as in the paper."""
    return Centralise()
