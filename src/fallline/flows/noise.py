r"""Stochastic equations of methods: SGD to first and second order, RMSProp and Adam where noise dominates, SAM; and SVAG, to test them.

SGD with rate :math:`\eta` and gradient noise of covariance :math:`\Sigma`: :math:`dX = -\nabla f\, dt + \sqrt{\eta}\, \Sigma^{1/2} dW`, a step being time eta.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.func import jacrev

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.flows.descent import modified_loss
from fallline.flows.fields import Loss, gradient
from fallline.flows.sde import Sde

__all__ = ["AdamNoise", "SamKind", "adam_sde", "rmsprop_sde", "sam_sde", "sgd_sde", "svag_gradient"]

Root = Callable[[Tensor], Tensor]
"""A root of the gradient noise's covariance at a point: (d,) to (d,), standard deviations, or to (d, m)."""

SamKind = Literal["sam", "usam", "dnsam"]


def sgd_sde(loss: Loss, root: Root, lr: float, order: int = 1, diagonal: bool = True) -> Sde:
    r"""SGD's equation (Li, Tai & E, arXiv:1511.06251). Weak order 1: drift :math:`-\nabla f`. Weak order 2:
    :math:`-\nabla (f + \frac\eta4 \|\nabla f\|^2)`. ``root`` gives :math:`\Sigma^{1/2}`: standard deviations, or a matrix and ``diagonal=False``."""
    if order not in (1, 2):
        raise InvalidValueError(f"sgd_sde() got order={order}. Expected 1 or 2. Higher orders are not known here.")
    slope = gradient(loss if order == 1 else modified_loss(loss, lr))
    return Sde(lambda x: -slope(x), lambda x: math.sqrt(lr) * root(x), diagonal)


@dataclass(frozen=True)
class AdamNoise:
    r"""Adam's hyperparameters, and their batch size scaling: batch B to kB takes eta to :math:`\sqrt k\, \eta`, :math:`1 - b` to :math:`k (1 - b)`, eps to
    :math:`\epsilon / \sqrt k`, and a k-th of the steps (Malladi et al., arXiv:2205.10287, the square root scaling rule)."""

    lr: float
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def scaled(self, k: float) -> AdamNoise:
        """The same limit at a batch k times as large."""
        b1, b2 = 1 - k * (1 - self.b1), 1 - k * (1 - self.b2)
        if not (0 <= b1 < 1 and 0 <= b2 < 1):
            raise InvalidValueError(
                f"Scaling the batch by {k} takes b1 and b2 to {b1:.4g} and {b2:.4g}. Expected both in [0, 1). Scale by at most "
                f"{1 / (1 - min(self.b1, self.b2)):.4g}, or start from larger betas."
            )
        return replace(self, lr=math.sqrt(k) * self.lr, b1=b1, b2=b2, eps=self.eps / math.sqrt(k))


def rmsprop_sde(loss: Loss, std: Root, method: AdamNoise, sigma: float) -> Sde:
    r"""RMSProp where noise dominates, on the state :math:`(\theta, u)`, shape (2 d,); time is :math:`k \eta^2` (arXiv:2205.10287).

    The gradient's noise is ``sigma * std(theta)``, entry by entry, and sigma is :math:`O(1/\eta)`. With :math:`\sigma_0 = \sigma\eta`,
    :math:`\epsilon_0 = \epsilon\eta`, :math:`c_2 = (1 - b_2)/\eta^2`, :math:`u = v/\sigma^2`, :math:`P = \sigma_0 \sqrt u + \epsilon_0`:
    :math:`d\theta = -P^{-1}(\nabla f\, dt + \sigma_0 \Sigma^{1/2} dW)`, :math:`du = c_2 (\mathrm{diag}\, \Sigma - u)\, dt`.
    """
    slope, sigma0, eps0 = gradient(loss), sigma * method.lr, method.eps * method.lr
    c2 = (1 - method.b2) / method.lr**2

    def drift(state: Tensor) -> Tensor:
        theta, u = state.chunk(2)
        return torch.cat([-slope(theta) / (sigma0 * u.clamp(min=0).sqrt() + eps0), c2 * (std(theta).square() - u)])

    def diffusion(state: Tensor) -> Tensor:
        theta, u = state.chunk(2)
        return torch.cat([-sigma0 * std(theta) / (sigma0 * u.clamp(min=0).sqrt() + eps0), torch.zeros_like(u)])

    return Sde(drift, diffusion, diagonal=True)


def adam_sde(loss: Loss, std: Root, method: AdamNoise, sigma: float) -> Sde:
    r"""Adam where noise dominates, on :math:`(\theta, m, u, t)`, shape (3 d + 1,); time is :math:`k \eta^2` (arXiv:2205.10287).

    As ``rmsprop_sde``, with :math:`c_1 = (1 - b_1)/\eta^2`, :math:`dm = c_1 (\nabla f - m)\, dt + \sigma_0 c_1 \Sigma^{1/2} dW`,
    :math:`d\theta = -\frac{\sqrt{\gamma_2(t)}}{\gamma_1(t)} P^{-1} m\, dt`, :math:`\gamma_i = 1 - e^{-c_i t}`,
    :math:`P = \sigma_0 \sqrt u + \epsilon_0 \sqrt{\gamma_2}`. Start after t = 0, where gamma is zero: at :math:`t = \eta^2`, one step in.
    """
    slope, sigma0, eps0 = gradient(loss), sigma * method.lr, method.eps * method.lr
    c1, c2 = ((1 - b) / method.lr**2 for b in (method.b1, method.b2))

    def drift(state: Tensor) -> Tensor:
        theta, m, u, t = _parts(state)
        gamma1, gamma2 = 1 - torch.exp(-c1 * t), 1 - torch.exp(-c2 * t)
        p = sigma0 * u.clamp(min=0).sqrt() + eps0 * gamma2.sqrt()
        moved = -gamma2.sqrt() / gamma1 * m / p
        return torch.cat([moved, c1 * (slope(theta) - m), c2 * (std(theta).square() - u), torch.ones_like(t)])

    def diffusion(state: Tensor) -> Tensor:
        theta, _, u, t = _parts(state)
        return torch.cat([torch.zeros_like(theta), sigma0 * c1 * std(theta), torch.zeros_like(u), torch.zeros_like(t)])

    return Sde(drift, diffusion, diagonal=True)


def svag_gradient(first: Tensor, second: Tensor, factor: float) -> Tensor:
    r"""Stochastic variance amplified gradient: from the gradients of two independent batches,
    :math:`\frac{1 + s}{2} g_1 + \frac{1 - s}{2} g_2` with :math:`s = \sqrt{2 \cdot \mathrm{factor} - 1}` (Li, Malladi & Arora, arXiv:2102.12470).

    The mean is kept and the variance is ``factor`` times as large. Runs with smaller and smaller rates that keep the stochastic equation tell
    whether the equation holds: for SGD factor l with the rate / l and l times the steps; for Adam factor :math:`l^2` with
    ``AdamNoise.scaled(1 / l**2)`` and :math:`l^2` times the steps. What changes between l = 1 and 4 is what the equation misses.
    """
    if factor < 1:
        raise InvalidValueError(
            f"svag_gradient() got factor={factor}. Expected at least 1. Pass 1 for a plain gradient."
        )
    s = math.sqrt(2 * factor - 1)
    return (1 + s) / 2 * first + (1 - s) / 2 * second


def sam_sde(losses: Callable[[Tensor], Tensor], root: Root, lr: float, rho: float, kind: SamKind = "sam") -> Sde:
    r"""SAM's equation for :math:`\rho = O(\sqrt\eta)` (Compagnoni et al., arXiv:2301.08203), ``losses`` the mini-batches' losses, (d,) to (m,).

    ========== ==============================================================
    kind       drift: minus the gradient of
    ========== ==============================================================
    ``usam``   :math:`f + \frac\rho2 E \|\nabla f_\gamma\|^2` (no normalisation)
    ``sam``    :math:`f + \rho E \|\nabla f_\gamma\|`
    ``dnsam``  :math:`f + \rho \|\nabla f\|` (normalised by the full gradient)
    ========== ==============================================================

    The diffusion is :math:`\sqrt\eta\, \Sigma^{1/2}` to leading order, ``root`` being :math:`\Sigma^{1/2}` as standard deviations; the terms of
    order :math:`\rho` in it are left out.
    """
    slopes = jacrev(losses)
    penalties: dict[str, Loss] = {
        "usam": lambda x: rho / 2 * slopes(x).square().sum(-1).mean(),
        "sam": lambda x: rho * slopes(x).norm(dim=-1).mean(),
        "dnsam": lambda x: rho * slopes(x).mean(0).norm(),
    }
    if kind not in penalties:
        raise InvalidValueError(
            f"sam_sde() got kind={kind!r}. Expected one of {', '.join(penalties)}. Pass one of them."
        )
    slope = gradient(lambda x: losses(x).mean() + penalties[kind](x))
    return Sde(lambda x: -slope(x), lambda x: math.sqrt(lr) * root(x), diagonal=True)


def _parts(state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    d = (len(state) - 1) // 3
    theta, m, u, t = state.split([d, d, d, 1])
    return theta, m, u, t


# -- claims -------------------------------------------------------------------------------------------------------------


def adam_losses(method: AdamNoise, batch: int, examples: int, paths: int, seed: int) -> Tensor:
    """Adam on a quadratic of curvatures 0.3, 1, 3 with noise of deviation 20 an example: the mean losses in the second half, shape (3,)."""
    made = torch.Generator().manual_seed(seed)
    curvature = torch.tensor([0.3, 1.0, 3.0], dtype=torch.float64)
    w = torch.ones(paths, 3, dtype=torch.float64)
    m, v, losses, steps = torch.zeros_like(w), torch.zeros_like(w), [], examples // batch
    for t in range(1, steps + 1):
        g = curvature * w + 20 / math.sqrt(batch) * torch.randn(w.shape, generator=made, dtype=torch.float64)
        m, v = method.b1 * m + (1 - method.b1) * g, method.b2 * v + (1 - method.b2) * g * g
        w = w - method.lr * m / (1 - method.b1**t) / ((v / (1 - method.b2**t)).sqrt() + method.eps)
        if t in (steps // 2, 3 * steps // 4, steps):
            losses.append((curvature * w.square()).sum(1).mean() / 2)
    return torch.stack(losses)


@claim(
    "square root scaling",
    "from batch 8 to 64 it keeps Adam's loss curve where noise dominates; scaling the rate linearly does not",
    where="arXiv:2205.10287, the square root scaling rule",
)
def square_root_not_linear(lab):
    small = AdamNoise(lr=0.01, b1=0.99, b2=0.995)
    reference = adam_losses(small, 8, 8192, paths=1500, seed=0)
    for k in (2, 4, 8):
        found = adam_losses(small.scaled(k), 8 * k, 8192, paths=1500, seed=k)
        yield lab.close(found / reference, torch.ones(3), rtol=0.1)
    linear = adam_losses(replace(small, lr=8 * small.lr), 64, 8192, paths=1500, seed=1)
    yield lab.less(1.4, float((linear / reference).min()))


@claim(
    "SGD's equation", "its first order leaves a weak error of order lr, the second of lr^2", where="arXiv:1511.06251"
)
def weak_orders(lab):
    # on a quadratic both are linear and the second moment is known: E x^2 after a time T, f = x^2 / 2, noise of deviation 1
    def second_moment(drift: float, lr: float, until: float) -> float:
        decay = math.exp(-2 * drift * until)
        return decay + lr * (1 - decay) / (2 * drift)

    misses: dict[int, list[float]] = {1: [], 2: []}
    for lr in (0.02, 0.01):
        exact = 1.0
        for _ in range(round(1 / lr)):
            exact = (1 - lr) ** 2 * exact + lr**2
        for order in (1, 2):
            sde = sgd_sde(lambda x: x.square().sum() / 2, torch.ones_like, lr, order)
            one = torch.ones(1, dtype=torch.float64)
            yield lab.close(sde.diffusion(one), math.sqrt(lr))
            misses[order].append(abs(second_moment(-float(sde.drift(one)), lr, 1.0) - exact))
    for order, (coarse, fine) in misses.items():
        yield lab.ratio(math.log2(coarse / fine), order, equals=1, rtol=0.1)
