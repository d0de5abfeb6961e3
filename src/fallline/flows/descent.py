r"""What gradient descent follows: gradient flow, and the modified flows that backward error analysis finds.

One step of :math:`\theta \leftarrow \theta + h f(\theta)` is, to a given order, time h of the field :math:`\tilde f = f + h f_1 + h^2 f_2 + \dots`
For :math:`f = -\nabla E` the first correction is :math:`-\frac12 H \nabla E`, so that gradient descent follows the flow of
:math:`\tilde E = E + \frac h4 \|\nabla E\|^2` (Barrett & Dherin, arXiv:2009.11162): it prefers small gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor
from torch.func import jvp

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.flows.fields import Field, Loss, gradient, hvp
from fallline.flows.solvers import solve

__all__ = ["gradient_flow", "modified_field", "modified_flow", "modified_loss"]


def gradient_flow(loss: Loss) -> Field:
    r"""Negative gradient flow, :math:`\dot\theta = -\nabla E`; along it :math:`\dot E = -\|\nabla E\|^2 \le 0`."""
    slope = gradient(loss)
    return lambda theta: -slope(theta)


def modified_loss(loss: Loss, lr: float) -> Loss:
    r""":math:`E + \frac h4 \|\nabla E\|^2`, h = ``lr``: the loss whose gradient flow descent follows to second order (arXiv:2009.11162)."""
    slope = gradient(loss)
    return lambda theta: loss(theta) + lr / 4 * slope(theta).square().sum()


def modified_flow(loss: Loss, lr: float, order: int = 2) -> Field:
    r"""The flow that gradient descent with rate h = ``lr`` follows with a global error of :math:`O(h^{\text{order}})`.

    Order 1 is gradient flow, order 2 adds :math:`-\frac h2 H g`, order 3 :math:`-h^2 (\frac13 H^2 g + \frac1{12} D^3 E[g, g])`, and so on.
    """
    if order != 2:
        return modified_field(gradient_flow(loss), lr, order)
    slope = gradient(loss)

    def field(theta: Tensor) -> Tensor:
        g = slope(theta)
        return -g - lr / 2 * hvp(loss, theta, g)

    return field


def modified_field(field: Field, lr: float, order: int = 2) -> Field:
    r"""The field that Euler's method with step h follows, :math:`\sum_{n < \text{order}} h^n f_n`, for any field :math:`f_0`.

    The flow of it over h must be one step, which gives, with :math:`D_i\, g = g' f_i`,

    .. math:: f_n = -\sum_{k=2}^{n+1} \frac1{k!} \sum_{i_1 + \dots + i_k = n + 1 - k} D_{i_1} \cdots D_{i_{k-1}} f_{i_k}

    (Hairer, Lubich & Wanner, Geometric Numerical Integration, section IX.1). The derivatives are taken by forward mode; the cost grows
    exponentially with the order.
    """
    if order < 1:
        raise InvalidValueError(
            f"modified_field() got order={order}. Expected at least 1. Pass 1 for the field itself."
        )

    @cache
    def term(n: int) -> Field:
        if n == 0:
            return field
        parts = [(1 / math.factorial(k), i) for k in range(2, n + 2) for i in _sums(n + 1 - k, k)]
        return lambda theta: -sum((w * nested(i)(theta) for w, i in parts), torch.zeros_like(theta))

    @cache
    def nested(indices: tuple[int, ...]) -> Field:
        first, *rest = indices
        if not rest:
            return term(first)
        inner = nested(tuple(rest))
        return lambda theta: jvp(inner, (theta,), (term(first)(theta),))[1]

    return lambda theta: sum((lr**n * term(n)(theta) for n in range(order)), torch.zeros_like(theta))


def _sums(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All tuples of so many numbers from 0 with that sum."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        yield from ((first, *rest) for rest in _sums(total - first, parts - 1))


# -- claims -------------------------------------------------------------------------------------------------------------


def small_network(theta: Tensor) -> Tensor:
    """The squared loss of a tanh network of 3 hidden units on 8 points, 10 parameters: the problem of the claims of flows."""
    x = torch.linspace(-2, 2, 8, dtype=theta.dtype)
    hidden = torch.tanh(x.unsqueeze(1) * theta[:3] + theta[3:6])
    return (hidden @ theta[6:9] + theta[9] - torch.sin(1.5 * x)).square().mean() / 2


START = torch.tensor([0.8, -0.5, 0.3, 0.1, 0.4, -0.6, 0.9, -0.7, 0.5, 0.1], dtype=torch.float64)


def descend(loss: Loss, start: Tensor, lr: float, steps: int) -> Tensor:
    """Where gradient descent ends."""
    slope, theta = gradient(loss), start
    for _ in range(steps):
        theta = theta - lr * slope(theta)
    return theta


@claim(
    "modified flow",
    "the global error of gradient flow is of order h, that of the modified flow of order h^2",
    where="arXiv:2009.11162, backward error analysis of gradient descent",
)
def orders_of_error(lab):
    for order in (1, 2):
        errors = []
        for lr in (0.1, 0.05):
            end = solve(modified_flow(small_network, lr, order), START, 0.4, 3).end
            errors.append(float((descend(small_network, START, lr, round(0.4 / lr)) - end).norm()))
        yield lab.ratio(math.log2(errors[0] / errors[1]), order, equals=1, rtol=0.15)


@claim(
    "implicit gradient regularisation",
    "a larger rate leads to smaller gradients after the same time, by an amount proportional to the rate",
    where="arXiv:2009.11162, the predictions",
)
def smaller_gradients(lab):
    slope = gradient(small_network)
    size = float(slope(solve(gradient_flow(small_network), START, 2.0, 100).end).norm())
    shrinks = [size - float(slope(descend(small_network, START, lr, round(2 / lr))).norm()) for lr in (0.02, 0.01)]
    yield lab.less(0.0, shrinks[1])
    yield lab.ratio(shrinks[0], shrinks[1], equals=2, rtol=0.1)
