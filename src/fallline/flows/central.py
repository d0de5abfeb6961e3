r"""Gradient descent at the edge of stability: self-stabilisation, and the central flow that its mean follows.

Where the sharpness S reaches 2/lr, descent oscillates along the top eigenvector, and the oscillation pushes S down again. Its mean follows

.. math:: \dot\theta = -\bigl[\nabla L + \tfrac12 \sigma^2 \nabla S\bigr], \qquad \sigma^2 = \frac{2 \langle -\nabla L, \nabla S \rangle}{\|\nabla S\|^2}

with :math:`\sigma^2` the variance that keeps S at 2/lr (Cohen et al., arXiv:2410.24206; one critical direction; time is lr times steps).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad

from fallline.core.claims import claim
from fallline.flows.descent import START, descend, gradient_flow, small_network
from fallline.flows.fields import Loss, gradient, top_eigenpairs
from fallline.flows.solvers import solve

__all__ = ["CentralPath", "central_path", "self_stabilisation", "sharpness_gradient"]


@dataclass(frozen=True)
class CentralPath:
    """A central flow at every step of the descent that it stands for."""

    points: Tensor
    """Shape (steps + 1, d)."""
    sharpness: Tensor
    """The top eigenvalue there, shape (steps + 1,)."""
    variance: Tensor
    r"""The oscillation's variance :math:`\sigma^2` along the top eigenvector, zero off the edge, shape (steps + 1,)."""
    loss: Tensor
    r"""The mean loss that descent is predicted to have, :math:`L + \sigma^2 / h`, shape (steps + 1,)."""


def sharpness_gradient(loss: Loss, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""The top eigenvalue S, its eigenvector u, and :math:`\nabla S = \nabla (u^T H u)` with u held fixed (S must be a simple eigenvalue)."""
    values, vectors = top_eigenpairs(loss, theta, 1)
    u = vectors[:, 0]

    def curvature(w: Tensor) -> Tensor:
        return (grad(lambda x: (grad(loss)(x) * u).sum())(w) * u).sum()

    return values[0], u, grad(curvature)(theta)


def central_path(loss: Loss, start: Tensor, lr: float, steps: int, substeps: int = 4) -> CentralPath:
    r"""The central flow of gradient descent over ``steps`` steps, each solved in ``substeps`` Euler steps, for one critical direction.

    Off the edge it is gradient flow. At the edge :math:`\sigma^2 \ge 0` is the least that brings the linearised sharpness at the end of the
    substep to at most 2/lr. For small losses only: every substep takes the dense Hessian.
    """
    slope, dt, edge = gradient(loss), lr / substeps, 2 / lr
    theta, points, sharpness, variances = start, [], [], []
    for k in range(steps * substeps + 1):
        s, _, up = sharpness_gradient(loss, theta)
        g = slope(theta)
        excess = s - edge - dt * (g @ up)  # S at the end of the substep along gradient flow, beyond the edge
        variance = (2 * excess / (dt * (up @ up))).clamp(min=0.0)
        if k % substeps == 0:
            points.append(theta)
            sharpness.append(s)
            variances.append(variance)
        theta = theta - dt * (g + variance / 2 * up)
    line, spread = torch.stack(points), torch.stack(variances)
    losses = torch.stack([loss(w) for w in points]) + spread / lr
    return CentralPath(line, torch.stack(sharpness), spread, losses)


def self_stabilisation(alpha: float, beta: float, lr: float, x: float, y: float, steps: int) -> tuple[Tensor, Tensor]:
    r"""The two-variable model of the edge: displacement x along the top eigenvector and excess sharpness :math:`y = S - 2/h`,

    .. math:: x \leftarrow -(1 + h y)\, x, \qquad y \leftarrow y + h (\alpha - \beta x^2 / 2)

    with :math:`\alpha = -\langle \nabla L, \nabla S \rangle` the progressive sharpening and :math:`\beta = \|\nabla S\|^2` (Damian, Nichani & Lee,
    arXiv:2209.15594). The mean of :math:`x^2` is :math:`2 \alpha / \beta`. Returns x and y at every step, shape (steps + 1,)."""
    xs, ys = [x], [y]
    for _ in range(steps):
        x, y = -(1 + lr * y) * x, y + lr * (alpha - beta * x * x / 2)
        xs.append(x)
        ys.append(y)
    return torch.tensor(xs, dtype=torch.float64), torch.tensor(ys, dtype=torch.float64)


@claim("self-stabilisation", "at the edge the oscillation's mean square is 2 alpha / beta", where="arXiv:2209.15594")
def mean_square(lab):
    x, y = self_stabilisation(alpha=0.3, beta=2.0, lr=0.01, x=0.5, y=0.0, steps=8000)
    yield lab.ratio(float(x.square().mean()), 0.3, equals=1, rtol=0.02)
    yield lab.less(float(y.mean().abs()), 0.01)


@claim(
    "central flow",
    "at the edge of stability it keeps the sharpness at 2 / lr and predicts the mean loss of descent, where gradient flow is far off",
    where="arXiv:2410.24206",
)
def mean_loss_at_the_edge(lab):
    start, lr, steps = descend(small_network, START, 0.3, 200), 2 / 2.1, 70  # the sharpness is 2.02 here, and rises
    central = central_path(small_network, start, lr, steps, substeps=1)
    yield lab.close(central.sharpness[30:] * lr / 2, torch.ones(steps - 29), rtol=0.005)
    theta, losses, slope = start, [], gradient(small_network)
    for _ in range(steps + 1):
        losses.append(small_network(theta))
        theta = theta - lr * slope(theta)
    mean = float(torch.stack(losses[30:]).mean())
    flow = solve(gradient_flow(small_network), start, lr * steps, steps).points[30:]
    off = abs(float(torch.stack([small_network(w) for w in flow]).mean()) - mean)
    yield lab.less(2 * abs(float(central.loss[30:].mean()) - mean), off)
