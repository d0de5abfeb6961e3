"""Weight prediction: take gradients where the weights are expected to be some steps from now."""

from __future__ import annotations

from torch import Tensor

from fallline.core.hyper import Domain
from fallline.core.transform import Transform, transform
from fallline.core.types import At, Hyper, State
from fallline.transforms.average import clone

__all__ = ["Predict", "predict"]


@transform
class Predict(Transform):
    """w <- w - u, and the parameter goes to w - s u: where s more such steps would lead"""

    s: Hyper = 1.0
    domains = {"s": Domain("[0, inf)")}
    slots = {"w": clone}

    def update(self, u: Tensor, at: At, *, w: Tensor) -> tuple[Tensor, State]:
        return at.p - w + (1 + self.s) * u, {"w": w - u}

    def average(self, p: Tensor, *, w: Tensor) -> Tensor:
        return w


def predict(s: Hyper = 1.0) -> Predict:
    r"""The last link of any chain: :math:`w_t = w_{t-1} - u_t`, gradients at :math:`\hat w_t = w_t - s\, u_t`, which is what the
    parameter holds (Guan et al., arXiv:2305.18240, algorithm 1). ``fallline.averaged(optimizer)`` evaluates at w."""
    return Predict(s)
