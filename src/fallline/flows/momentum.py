r"""Momentum in continuous time: a second-order equation with friction, or gradient flow on a faster clock.

Heavy ball :math:`v_{t} = \beta v_{t-1} - h \nabla E`, :math:`\theta_t = \theta_{t-1} + v_t` solves :math:`\ddot\theta + c\, \dot\theta = -\nabla E` on steps of
:math:`\sqrt h` with :math:`c = (1 - \beta) / \sqrt h`, and, for a fixed beta and small h, :math:`\dot\theta = -\nabla E / (1 - \beta)` on steps of h.
"""

from __future__ import annotations

import math

import torch

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.flows.descent import START, gradient_flow, small_network
from fallline.flows.fields import Field, Loss, gradient, hvp
from fallline.flows.solvers import heavy_ball_path, solve

__all__ = ["friction_of", "modified_momentum_flow", "momentum_flow", "second_order_flow"]


def friction_of(lr: float, momentum: float) -> float:
    r"""The friction :math:`c = (1 - \beta) / \sqrt h` of the second-order equation that heavy ball solves on steps of :math:`\sqrt h`."""
    return (1 - momentum) / math.sqrt(lr)


def second_order_flow(loss: Loss, friction: float) -> Field:
    r""":math:`\ddot\theta + c\, \dot\theta = -\nabla E` as a field on :math:`(\theta, \dot\theta)`, shape (2 d,); start at rest with ``torch.cat([theta, zeros])``."""
    slope = gradient(loss)

    def field(state: torch.Tensor) -> torch.Tensor:
        theta, velocity = state.chunk(2)
        return torch.cat([velocity, -slope(theta) - friction * velocity])

    return field


def momentum_flow(loss: Loss, momentum: float) -> Field:
    r"""Gradient flow on a faster clock, :math:`\dot\theta = -\nabla E / (1 - \beta)`: heavy ball's limit for small rates, a step being time h
    (Kovachki & Stuart, arXiv:1906.04285)."""
    slope = gradient(loss)
    scale = 1 / (1 - _checked(momentum))
    return lambda theta: -scale * slope(theta)


def modified_momentum_flow(loss: Loss, lr: float, momentum: float) -> Field:
    r"""One order more: :math:`\dot\theta = -\frac{g}{1 - \beta} - \frac{h (1 + \beta)}{2 (1 - \beta)^3} H g`, for :math:`v = \beta v + g`
    (Kovachki & Stuart, arXiv:1906.04285; Ghosh et al., arXiv:2302.00849): momentum regularises the gradient's norm
    :math:`(1 + \beta) / (1 - \beta)^2` times as strongly as descent at the same clock."""
    slope, b = gradient(loss), _checked(momentum)

    def field(theta: torch.Tensor) -> torch.Tensor:
        g = slope(theta)
        return -g / (1 - b) - lr * (1 + b) / (2 * (1 - b) ** 3) * hvp(loss, theta, g)

    return field


def _checked(momentum: float) -> float:
    if not 0 <= momentum < 1:
        raise InvalidValueError(
            f"A flow of momentum got momentum={momentum}. Expected a number in [0, 1). Pass the method's own."
        )
    return momentum


@claim(
    "momentum",
    "heavy ball follows gradient flow on a clock 1 / (1 - beta) times as fast with an error of order h, its modified flow with h^2",
    where="arXiv:1906.04285",
)
def faster_clock(lab):
    for order in (1, 2):
        errors = []
        for lr in (0.005, 0.0025):
            flow = momentum_flow(small_network, 0.8) if order == 1 else modified_momentum_flow(small_network, lr, 0.8)
            path = heavy_ball_path(gradient_flow(small_network), START, lr, 0.8, round(0.4 / lr))
            # what momentum has not yet built up at the start shifts the clock by a fixed number of steps: leave it out
            behind = round(0.2 / lr)
            errors.append(float((solve(flow, path.points[behind], 0.2, 8).end - path.end).norm()))
        yield lab.ratio(math.log2(errors[0] / errors[1]), order, equals=1, rtol=0.2)


@claim(
    "momentum",
    "on steps of sqrt h it is the second-order equation with friction (1 - beta) / sqrt h",
    where="arXiv:1906.04285",
)
def second_order(lab):
    state, errors = torch.cat([START, torch.zeros_like(START)]), []
    for s in (0.04, 0.02):
        lr, beta = s**2, 1 - 2.0 * s
        path = heavy_ball_path(gradient_flow(small_network), START, lr, beta, round(2 / s))
        yield lab.close(friction_of(lr, beta), 2.0)
        end = solve(second_order_flow(small_network, 2.0), state, 2.0, 20).end[: len(START)]
        errors.append(float((path.end - end).norm()))
    yield lab.ratio(math.log2(errors[0] / errors[1]), 1, equals=1, rtol=0.15)
