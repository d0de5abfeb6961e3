"""A method beside the flow that is said to describe it: how far apart after one step and after a fixed time, and with which order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fallline.core.errors import InvalidTypeError, InvalidValueError
from fallline.core.optimizer import Optimizer
from fallline.core.transform import Chain
from fallline.flows.fields import Field, Loss, gradient
from fallline.flows.solvers import solve

__all__ = ["Comparison", "compare", "follow"]

FlowOf = Callable[[Loss, float], Field]
"""(loss, lr) to the field that stands for the method at that rate: ``modified_flow``, or ``lambda loss, lr: gradient_flow(loss)``."""


@dataclass(frozen=True)
class Comparison:
    """Distances between a method and a flow at several rates, largest rate first."""

    rates: tuple[float, ...]
    per_step: tuple[float, ...]
    """The distance after one step from the start."""
    drift: tuple[tuple[float, ...], ...]
    """For every rate, the distance at every step of the run, from a common start."""

    @property
    def final(self) -> tuple[float, ...]:
        """The distance at the end of the run."""
        return tuple(d[-1] for d in self.drift)

    @property
    def order(self) -> float:
        r"""The measured power p of the global error :math:`O(h^p)`: the slope between the two smallest rates."""
        return self._slope(self.final)

    @property
    def local_order(self) -> float:
        r"""The measured power of one step's error; p + 1 for a flow of order p."""
        return self._slope(self.per_step)

    def _slope(self, errors: Sequence[float]) -> float:
        return math.log(errors[-2] / errors[-1]) / math.log(self.rates[-2] / self.rates[-1])


def compare(
    chain: Chain,
    flow: FlowOf,
    loss: Loss,
    start: Tensor,
    until: float,
    rates: Sequence[float] = (0.1, 0.05),
    warmup: float = 0.0,
) -> Comparison:
    """Run a chain at each rate for the time ``until`` (``until / rate`` steps) and solve its flow beside it, one step of RK4 for a step.

    ``loss`` is a function of one vector; ``flat_loss(oracle, batch)`` makes one of a model, with its ``start``. The chain needs a
    hyperparameter ``lr``. The method first runs for the time ``warmup`` by itself, if its state takes steps to build up, as momentum does.

    compare(sgd(lr=0.1), modified_flow, loss, start, until=1.0).order  # 2
    """
    if not isinstance(chain, Chain) or "lr" not in chain.hypers:
        raise InvalidTypeError(
            f"compare() got {chain!r}. Expected a chain with a hyperparameter lr, which it can change. Call a method, as in sgd(lr=0.1)."
        )
    rates = tuple(sorted((float(r) for r in rates), reverse=True))
    if len(rates) < 2 or rates[-1] <= 0 or until < rates[0]:
        raise InvalidValueError(
            f"compare() got rates={rates} and until={until}. Expected at least two rates above 0, none above the time. Pass for "
            f"example rates=(0.1, 0.05), until=1.0."
        )
    per_step, drift = [], []
    for lr in rates:
        steps, before = round(until / lr), round(warmup / lr)
        points = follow(chain.rebuild({"lr": lr}), loss, start, before + steps)[before:]
        beside = solve(flow(loss, lr), points[0], steps * lr, steps).points
        apart = (points - beside).norm(dim=1)
        per_step.append(float(apart[1]))
        drift.append(tuple(apart.tolist()))
    return Comparison(rates, tuple(per_step), tuple(drift))


def follow(chain: Chain, loss: Loss, start: Tensor, steps: int) -> Tensor:
    """The points of a run of a chain on a loss of one vector, shape (steps + 1, d)."""
    p = torch.nn.Parameter(start.clone())
    optimizer, slope, points = Optimizer([p], chain, fuse="eager"), gradient(loss), [start]

    def closure() -> Tensor:
        p.grad = slope(p.detach())
        return loss(p.detach())

    for _ in range(steps):
        optimizer.step(closure)
        points.append(p.detach().clone())
    return torch.stack(points)
