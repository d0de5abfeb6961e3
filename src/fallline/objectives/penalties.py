r"""Gradient penalties: the loss plus half the squared norm of its gradient, exactly or by a finite difference.

.. math:: L(\theta) + \frac{\gamma}{2} \lVert \nabla L(\theta) \rVert^2
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.core.evaluate import RandomState
from fallline.core.oracle import Batch, Gradients, Oracle
from fallline.core.types import Params
from fallline.objectives.base import Objective, at_least, differentiable, dot, flat, moved, replayed
from fallline.objectives.problems import classifier, quadratic
from fallline.objectives.sharpness import usam

__all__ = ["finite_difference_penalty", "gradient_penalty", "implicit_penalty"]

Difference = Literal["forward", "backward"]


def gradient_penalty(oracle: Oracle, weight: float, power: Literal[1, 2] = 2) -> Objective:
    r"""The loss plus a penalty on its gradient, differentiated twice.

    .. math:: L + \frac{\gamma}{2} \lVert \nabla L \rVert^2 \ \text{(power 2)}, \qquad L + \gamma \lVert \nabla L \rVert \ \text{(power 1)}

    with :math:`\gamma` the ``weight``. The norm itself: Zhao et al. 2022, arXiv:2202.03599. About three times the cost of a
    gradient, and the memory of two; ``finite_difference_penalty`` needs two gradients and no second derivative.
    """
    if power not in (1, 2):
        raise InvalidValueError(
            f"power is {power!r}. Expected 1 for the norm of the gradient or 2 for half its square. Pass power=2."
        )
    return _Penalty(differentiable(oracle, "gradient_penalty"), at_least("weight", weight, 0.0), power)


def implicit_penalty(oracle: Oracle, lr: float) -> Objective:
    r"""What gradient descent with steps of ``lr`` minimises without being told, made explicit.

    .. math:: L + \frac{h}{4} \lVert \nabla L \rVert^2

    Descent on L follows the flow of this loss to the next order in h (Barrett and Dherin 2021, arXiv:2009.11162). The
    gradient is that of the batch, as in the modified loss of SGD (Smith et al. 2021, arXiv:2101.12176).
    """
    return gradient_penalty(oracle, at_least("lr", lr, 0.0, above=True) / 2)


class _Penalty(Objective):
    def __init__(self, inner: Oracle, weight: float, power: int) -> None:
        super().__init__(inner)
        self.weight, self.power = weight, power

    def loss(self, params: Params, batch: Batch, *, statistics: bool = False) -> Tensor:
        with torch.enable_grad():
            own = {n: p if p.requires_grad else p.detach().requires_grad_() for n, p in params.items()}
            value = self.inner.loss(own, batch, statistics=statistics)
            found = torch.autograd.grad(value, list(own.values()), create_graph=True, allow_unused=True)
            squared = torch.stack([g.square().sum() for g in found if g is not None]).sum()
        if self.power == 2:
            return value + self.weight / 2 * squared
        return value + self.weight * squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt()


def finite_difference_penalty(
    oracle: Oracle, weight: float, step: float = 0.01, difference: Difference = "forward"
) -> Objective:
    r"""The loss plus half the squared norm of its gradient, by the difference of two gradients along the gradient.

    .. math:: \nabla L + \gamma \frac{\nabla L(\theta + \epsilon \nabla L) - \nabla L(\theta)}{\epsilon}

    with :math:`\gamma` the ``weight`` and :math:`\epsilon` the ``step``; backward: at :math:`\theta - \epsilon \nabla L`. Two gradients,
    no second derivative. Not only an approximation: forward differences with large steps are SAM's (weight = step is USAM) and
    regularise more than the exact penalty (Karakida et al. 2023, arXiv:2210.02720).
    """
    if difference not in ("forward", "backward"):
        raise InvalidValueError(
            f"difference is {difference!r}. Expected 'forward' or 'backward'. Pass difference='forward'."
        )
    sign = 1.0 if difference == "forward" else -1.0
    return _Difference(oracle, at_least("weight", weight, 0.0), sign * at_least("step", step, 0.0, above=True))


class _Difference(Objective):
    changes = "gradient"

    def __init__(self, inner: Oracle, weight: float, step: float) -> None:
        super().__init__(inner)
        self.weight, self.step = weight, step

    def loss(self, params: Params, batch: Batch, *, statistics: bool = False) -> Tensor:
        value, g = self.inner.value_and_grad(params, batch, statistics=statistics)
        return value + self.weight / 2 * dot(g, g)

    def value_and_grad(self, params: Params, batch: Batch, *, statistics: bool = False) -> tuple[Tensor, Gradients]:
        start = RandomState(params.values())
        value, g = self.inner.value_and_grad(params, batch, statistics=statistics)
        with replayed(params, start):
            h = self.inner.value_and_grad(moved(params, g, self.step), batch)[1]
        share = self.weight / self.step
        return value + self.weight / 2 * dot(g, g), {n: x + share * (h[n] - x) for n, x in g.items()}


# -- claims -----------------------------------------------------------------------------------------------------------------


@claim(
    "gradient_penalty",
    "on a quadratic, the gradient is (I + weight H) g; of the norm's penalty, g + weight H g / ||g||",
    where="arXiv:2202.03599",
)
def penalty_closed_form(lab):
    oracle, batch, h, c = quadratic()
    g = h @ (flat(oracle.params).detach() - c)
    value = oracle.loss(oracle.params, batch)
    found, twice = gradient_penalty(oracle, 0.3).value_and_grad(oracle.params, batch)
    yield lab.equal(flat(twice), g + 0.3 * h @ g)
    yield lab.equal(found, value.detach() + 0.15 * g @ g)
    found, once = gradient_penalty(oracle, 0.3, power=1).value_and_grad(oracle.params, batch)
    yield lab.equal(flat(once), g + 0.3 * h @ g / g.norm())
    yield lab.equal(found, value.detach() + 0.3 * g.norm())


@claim(
    "implicit_penalty",
    "gradient descent follows the flow of the penalised loss an order better than that of the loss",
    where="arXiv:2009.11162",
)
def descent_follows_the_penalised_flow(lab):
    oracle, batch, h, c = quadratic()
    off = flat(oracle.params).detach() - c

    def error(lr: float, matrix: Tensor) -> float:
        stepped = torch.matrix_power(torch.eye(5, dtype=torch.float64) - lr * h, round(1 / lr)) @ off
        return float((torch.linalg.matrix_exp(-matrix) @ off - stepped).norm())

    for lr in (0.02, 0.01):
        found = implicit_penalty(oracle, lr).value_and_grad(oracle.params, batch)[1]
        yield lab.equal(flat(found), (h + lr / 2 * h @ h) @ off)
    plain = [error(lr, h) for lr in (0.02, 0.01)]
    penalised = [error(lr, h + lr / 2 * h @ h) for lr in (0.02, 0.01)]
    yield lab.ratio(*plain, equals=2.0, rtol=0.05)
    yield lab.ratio(*penalised, equals=4.0, rtol=0.05)


@claim("finite_difference_penalty", "with weight = step the gradient is USAM's", where="arXiv:2210.02720")
def difference_is_usam(lab):
    oracle, batch = classifier()
    found = finite_difference_penalty(oracle, 0.2, step=0.2).value_and_grad(oracle.params, batch)[1]
    yield lab.equal(flat(found), flat(usam(oracle, 0.2).value_and_grad(oracle.params, batch)[1]))


@claim(
    "finite_difference_penalty",
    "the difference tends to the second derivative, with an error in proportion to the step",
    where="arXiv:2210.02720",
)
def difference_tends_to_the_penalty(lab):
    oracle, batch = classifier()
    value, exact = gradient_penalty(oracle, 0.2).value_and_grad(oracle.params, batch)
    ways: tuple[Difference, Difference] = ("forward", "backward")
    for way in ways:
        errors = []
        for step in (2e-3, 1e-3):
            found, g = finite_difference_penalty(oracle, 0.2, step, way).value_and_grad(oracle.params, batch)
            yield lab.equal(found, value)
            errors.append(float((flat(g) - flat(exact)).norm()))
        yield lab.ratio(*errors, equals=2.0, rtol=0.02)
