"""Gradient noise: normal noise whose variance falls with the step."""

from __future__ import annotations

from torch import Tensor

from fallline.core.hyper import NONNEGATIVE
from fallline.core.random import normal_like, stream
from fallline.core.transform import Transform, transform
from fallline.core.types import At, Hyper, Reach, State

__all__ = ["AddNoise", "add_noise"]


@transform
class AddNoise(Transform):
    """u <- u + n,  n ~ N(0, eta / t^gamma)"""

    eta: Hyper = 0.01
    gamma: Hyper = 0.55
    domains = {"eta": NONNEGATIVE, "gamma": NONNEGATIVE}
    reach = Reach.MATRIX
    slots = {"stream": stream}

    def update(self, u: Tensor, at: At, *, stream: Tensor) -> tuple[Tensor, State]:
        return u + (self.eta / at.t**self.gamma) ** 0.5 * normal_like(u, stream, at.t), {}


def add_noise(eta: Hyper = 0.01, gamma: Hyper = 0.55) -> AddNoise:
    r"""Annealed Gaussian noise, :math:`u \leftarrow u + n_t,\; n_t \sim N(0, \eta / t^\gamma)` with t from 1. Placed first it is
    gradient noise (Neelakantan et al., arXiv:1511.06807, section 3, which tries :math:`\eta` of 0.01, 0.3 and 1; whether its t
    starts at 0 or 1 is open). The numbers depend on the optimizer's ``seed``, the parameter's name and the step alone."""
    return AddNoise(eta, gamma)
