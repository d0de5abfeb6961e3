"""Steepest descent: the unit step that decreases the linear model most, in the norm of one's choice."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fallline.core.transform import Transform, transform
from fallline.core.types import At, Reach, State

__all__ = ["Norm", "Normalise", "Sign", "sign", "steepest"]

Norm = Literal["max", "frobenius"]


@transform
class Sign(Transform):
    """u <- sign(u)"""

    def update(self, u: Tensor, at: At) -> tuple[Tensor, State]:
        return u.sign(), {}


@transform
class Normalise(Transform):
    """u <- u / ||u||, per tensor; zero stays zero"""

    reach = Reach.TENSOR

    def update(self, u: Tensor, at: At) -> tuple[Tensor, State]:
        length = u.norm()
        return u / (length + (length == 0)), {}


def sign() -> Sign:
    r"""Keep the sign of every entry, :math:`u \leftarrow \mathrm{sign}(u)`."""
    return Sign()


def steepest(norm: Norm) -> Transform:
    r"""The direction of steepest descent, :math:`u \leftarrow \arg\max_{\|t\| \le 1} \langle u, t \rangle` for each tensor
    (Bernstein & Newhouse, arXiv:2409.20325, proposition 1): ``"max"`` gives the signs, ``"frobenius"`` :math:`u / \|u\|`."""
    return Sign() if norm == "max" else Normalise()
