"""Momentum: heavy ball or Nesterov, in torch's parametrisation."""

from __future__ import annotations

from torch import Tensor

from fallline.core.transform import Transform, transform, zeros
from fallline.core.types import At, Hyper, State

__all__ = ["Momentum", "momentum"]


@transform
class Momentum(Transform):
    """m_t = momentum m_{t-1} + (1 - dampening) u_t with m_1 = u_1; u <- m_t, or u_t + momentum m_t with Nesterov"""

    momentum: Hyper = 0.9
    dampening: Hyper = 0.0
    nesterov: bool = False
    slots = zeros("m")

    def update(self, u: Tensor, at: At, *, m: Tensor) -> tuple[Tensor, State]:
        m = self.momentum * m + (1 - self.dampening * (at.t > 1)) * u  # the first gradient enters undampened
        return u + self.momentum * m if self.nesterov else m, {"m": m}


def momentum(momentum: Hyper = 0.9, dampening: Hyper = 0.0, nesterov: bool = False) -> Momentum:
    r"""Momentum :math:`m_t = \beta m_{t-1} + (1 - d) u_t`, :math:`m_1 = u_1` (Polyak 1964; Sutskever et al. 2013)."""
    return Momentum(momentum, dampening, nesterov)
