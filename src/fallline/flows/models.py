r"""Models of SGD that can be solved: the Ornstein-Uhlenbeck process around a minimum, and the random walk.

Near a minimum with Hessian H and gradient noise of covariance C, SGD with rate h is :math:`dX = -H X\, dt + \sqrt{h}\, C^{1/2} dW`: Gaussian at all
times. Where noise is all there is, it is a random walk, and principal components of its path are cosines whatever the loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.linalg import solve_continuous_lyapunov, solve_discrete_lyapunov
from torch import Tensor

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError

__all__ = ["OrnsteinUhlenbeck", "random_walk_shares", "sgd_covariance"]


@dataclass(frozen=True)
class OrnsteinUhlenbeck:
    r""":math:`dX = -A X\, dt + B\, dW` by A, shape (d, d), and :math:`Q = B B^T`, shape (d, d)."""

    a: Tensor
    q: Tensor

    @classmethod
    def of_sgd(cls, hessian: Tensor, noise: Tensor, lr: float) -> OrnsteinUhlenbeck:
        """SGD around a minimum: ``noise`` is the covariance of a mini-batch's gradient; a step is time lr
        (Mandt, Hoffman & Blei, arXiv:1704.04289)."""
        return cls(hessian, lr * noise)

    def mean(self, start: Tensor, t: float) -> Tensor:
        """The mean at time t, shape (d,)."""
        return torch.linalg.matrix_exp(-t * self.a) @ start

    def covariance(self, t: float = math.inf) -> Tensor:
        r"""The covariance at time t of a process that starts at a point, shape (d, d): :math:`S - e^{-At} S e^{-A^T t}`, with the
        stationary S of :math:`A S + S A^T = Q`."""
        rates = torch.linalg.eigvals(self.a).real
        if not bool((rates > 0).all()):
            raise InvalidValueError(
                f"The process has a direction of rate {float(rates.min()):.3g} and no stationary state. Expected all rates above "
                f"0. Leave out directions in which the Hessian is flat or negative."
            )
        s = torch.as_tensor(solve_continuous_lyapunov(self.a.numpy(), self.q.numpy()))
        if math.isinf(t):
            return s
        decay = torch.linalg.matrix_exp(-t * self.a)
        return s - decay @ s @ decay.T


def sgd_covariance(hessian: Tensor, noise: Tensor, lr: float) -> Tensor:
    r"""The exact stationary covariance of SGD on a quadratic: :math:`S = (I - hH) S (I - hH) + h^2 C`; on one coordinate
    :math:`h C / (\lambda (2 - h \lambda))`, where the process says :math:`h C / (2 \lambda)`."""
    step = torch.eye(len(hessian), dtype=hessian.dtype) - lr * hessian
    return torch.as_tensor(solve_discrete_lyapunov(step.numpy(), (lr**2 * noise).numpy()))


def random_walk_shares(k: int) -> Tensor:
    r"""Shares of the variance of a long random walk in many dimensions in its first k principal components:
    :math:`\frac{6}{\pi^2 j^2}`, so 60.8 % in the first (Antognini & Sohl-Dickstein, arXiv:1806.08805). A path whose components look like this shows
    nothing of its loss."""
    return 6 / (math.pi**2 * torch.arange(1, k + 1, dtype=torch.float64).square())


@claim(
    "Ornstein-Uhlenbeck",
    "SGD on a quadratic has the process's covariance, to first order in the rate",
    where="arXiv:1704.04289",
)
def stationary(lab):
    hessian = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    noise = torch.tensor([[1.0, -0.3], [-0.3, 2.0]], dtype=torch.float64)
    gaps = []
    for lr in (0.02, 0.01):
        process, exact = OrnsteinUhlenbeck.of_sgd(hessian, noise, lr).covariance(), sgd_covariance(hessian, noise, lr)
        gaps.append(float((process - exact).norm() / exact.norm()))
    yield lab.less(gaps[1], 0.02)
    yield lab.ratio(gaps[0], gaps[1], equals=2, rtol=0.05)


@claim(
    "random walk", "60.8 % of the variance of its path lies in the first principal component", where="arXiv:1806.08805"
)
def first_component(lab):
    made = torch.Generator().manual_seed(0)
    path = torch.randn(600, 4000, generator=made, dtype=torch.float64).cumsum(0)
    path = path - path.mean(0)
    values = torch.linalg.eigvalsh(path @ path.T).flip(0)
    yield lab.close((values / values.sum())[:3], random_walk_shares(3), rtol=0.02)
