r"""Thermodynamic natural gradient: the linear system is left to relax, as an Ornstein-Uhlenbeck process does.

.. math:: dx = -\big( (F + \lambda I) x - g \big) dt + \sqrt{2 T}\, dW, \qquad x \to (F + \lambda I)^{-1} g
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError, NotFiniteError
from fallline.core.oracle import Batch, Gradients, Oracle
from fallline.core.space import log
from fallline.core.types import Hyper, Params
from fallline.curvature import ggn
from fallline.objectives.base import at_least, flat
from fallline.objectives.problems import classifier
from fallline.second_order.base import PRODUCT, Solver, finite, plain
from fallline.second_order.entries import number, step_method, steps

__all__ = ["tngd"]


class NotSettledError(InvalidValueError, NotFiniteError):
    """A simulation whose steps are too long for the curvature: it grows without bound."""


def tngd(
    oracle: Oracle,
    damping: float = 1.0,
    *,
    time: float = 1.0,
    num_steps: int = 10,
    temperature: float = 0.0,
    seed: int = 0,
) -> Solver:
    r"""Thermodynamic natural gradient descent, its analog device simulated by Euler-Maruyama steps.

    .. math:: x \leftarrow x - h \big( (F + \lambda I) x - g \big) + \sqrt{2 T h}\, \xi, \qquad h = t / \text{num\_steps}

    The step is x after a time t. x goes on from where the last step left it: short times make of it a momentum that the curvature damps,
    long ones the natural gradient. F is the Gauss-Newton matrix, one product for each h. Donatella et al. 2024, arXiv:2405.13817.

    Args:
        damping: :math:`\lambda`.
        time: t.
        num_steps: of the simulation; h must be below 2 over the largest eigenvalue of F + damping.
        temperature: T, the device's noise.
        seed: of the noise.
    """
    at_least("time", time, 0.0, above=True)
    at_least("temperature", temperature, 0.0)
    if num_steps < 1:
        raise InvalidValueError(f"tngd() got num_steps={num_steps}. Expected at least 1. Leave it out for 10.")
    return _Thermodynamic(plain(oracle, "tngd"), damping, time, num_steps, temperature, seed)


@step_method(
    tngd,
    label="TNGD",
    title="Thermodynamic Natural Gradient Descent",
    arxiv="2405.13817",
    year=2024,
    section="algorithm 1",
    notes="The analog device is simulated, without noise; stepped with heavy-ball momentum and a rate.",
    space={"lr": log(1e-3, 1.0), "time": log(1e-1, 1e1), "damping": log(1e-3, 1e1)},
)
def _tngd(lr: Hyper = 0.1, momentum: Hyper = 0.0, damping: Hyper = 1.0, time: Hyper = 1.0, num_steps: int = 10):
    return steps(lr, momentum), lambda oracle, seed: tngd(
        oracle, number("damping", damping), time=number("time", time), num_steps=num_steps, seed=seed
    )


class _Thermodynamic(Solver):
    def __init__(
        self, inner: Oracle, damping: float, time: float, num_steps: int, temperature: float, seed: int
    ) -> None:
        super().__init__(inner, damping)
        self.time, self.num_steps, self.temperature, self.seed = time, num_steps, temperature, seed
        self.state["count"] = torch.zeros((), dtype=torch.int64)

    def value_and_grad(self, params: Params, batch: Batch, *, statistics: bool = False) -> tuple[Tensor, Gradients]:
        value, g = self.inner.value_and_grad(params, batch, statistics=statistics)
        self.gradients = 1
        if not finite(g):
            return value, g
        self.gradients += PRODUCT * self.num_steps
        operator = ggn(self.inner, batch, params)
        b = operator.domain.flatten(g)
        x = self.state["x"].to(b) if "x" in self.state else torch.zeros_like(b)
        h = self.time / self.num_steps
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + int(self.state["count"]))
        for _ in range(self.num_steps):
            ax = operator @ x + self.damping * x
            if float(h * (x @ ax)) > 2 * float(x @ x):
                raise NotSettledError(
                    f"tngd() met a curvature of {float(x @ ax / (x @ x)):.3g} with steps of {h:.3g}, which do not settle. Expected their "
                    f"product below 2. Raise num_steps, or lower time or damping."
                )
            x = x - h * (ax - b)
            if self.temperature:
                x = x + math.sqrt(2 * self.temperature * h) * torch.randn(len(x), generator=random).to(x)
        if statistics:
            self.state |= {"x": x.clone(), "count": self.state["count"] + 1}
        return value, operator.domain.unflatten(x)


# -- claims -----------------------------------------------------------------------------------------------------------------


@claim("tngd", "after a long time the step is the damped natural gradient, after a short one time times the gradient",
       where="arXiv:2405.13817")  # fmt: skip
def long_and_short_times(lab):
    oracle, batch = classifier()
    g = flat(oracle.value_and_grad(oracle.params, batch)[1])
    matrix = ggn(oracle, batch).dense() + torch.eye(len(g), dtype=g.dtype)
    long = flat(tngd(oracle, 1.0, time=30.0, num_steps=90).value_and_grad(oracle.params, batch)[1])
    yield lab.close(long, torch.linalg.solve(matrix, g), rtol=1e-8)
    short = flat(tngd(oracle, 1.0, time=1e-5, num_steps=2).value_and_grad(oracle.params, batch)[1])
    yield lab.close(short, 1e-5 * g, rtol=1e-4)


@claim("tngd", "going on from the last state is waiting longer: two steps on one batch are one of twice the time",
       where="arXiv:2405.13817")  # fmt: skip
def states_go_on(lab):
    oracle, batch = classifier()
    solver = tngd(oracle, time=0.5, num_steps=5)
    for _ in range(2):
        found = solver.value_and_grad(oracle.params, batch, statistics=True)[1]
    once = tngd(oracle, time=1.0, num_steps=10).value_and_grad(oracle.params, batch)[1]
    yield lab.close(flat(found), flat(once))
