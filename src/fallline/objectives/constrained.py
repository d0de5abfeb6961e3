r"""Constrained learning: a loss kept below a limit while another is minimised, by descent and ascent on the Lagrangian."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.core.evaluate import RandomState
from fallline.core.oracle import Batch, Oracle
from fallline.core.types import Params
from fallline.objectives.base import Objective, at_least, differentiable, flat, replayed
from fallline.objectives.problems import quadratic

__all__ = ["constrained"]


def constrained(oracle: Oracle, limits: Sequence[tuple[Oracle, float]], dual_lr: float = 0.1) -> Objective:
    r"""The loss of ``oracle`` with each of ``limits``, (oracle of the same module, number), kept below its number.

    .. math:: L_0(\theta) + \sum_i \lambda_i (L_i(\theta) - c_i), \qquad
        \lambda_i \leftarrow \max(0, \lambda_i + \eta\, (L_i(\theta) - c_i))

    The multipliers :math:`\lambda` start at 0, move at every ``backward`` by ``dual_lr`` times how far the batch is over the limit,
    and are in ``state["multipliers"]``. Chamon and Ribeiro 2020, arXiv:2006.05487; the last iterate: Elenter et al. 2024,
    arXiv:2403.11844.
    """
    if not limits:
        raise InvalidValueError(
            "constrained() got no limits. Expected at least one pair of an oracle and a number. Pass for example [(fairness, 0.1)]."
        )
    if any(o.module is not oracle.module for o, _ in limits):
        raise InvalidValueError(
            "An oracle of constrained()'s limits is of another module. Expected losses of the module whose parameters are trained. "
            "Make all oracles from the same model."
        )
    for other in (oracle, *(o for o, _ in limits)):
        differentiable(other, "constrained")
    return _Constrained(oracle, limits, at_least("dual_lr", dual_lr, 0.0))


class _Constrained(Objective):
    def __init__(self, inner: Oracle, limits: Sequence[tuple[Oracle, float]], dual_lr: float) -> None:
        super().__init__(inner)
        self.limits, self.dual_lr = list(limits), dual_lr
        self.state = {"multipliers": torch.zeros(len(self.limits), dtype=torch.float64)}

    def loss(self, params: Params, batch: Batch, *, statistics: bool = False) -> Tensor:
        value, slacks = self.parts(params, batch, statistics)
        multipliers = self.state["multipliers"]
        if statistics:
            over = self.mean_over_ranks({"slacks": slacks.detach()})["slacks"].to(multipliers)
            self.state["multipliers"] = (multipliers + self.dual_lr * over).clamp_min(0)
        return value + (multipliers.to(slacks) * slacks).sum()

    def parts(self, params: Params, batch: Batch, statistics: bool) -> tuple[Tensor, Tensor]:
        """The loss, and how far each constraint's loss is above its limit, shape (limits,)."""
        start = RandomState(params.values())
        value = self.inner.loss(params, batch, statistics=statistics)
        with replayed(params, start):
            slacks = [o.loss(params, batch) - limit for o, limit in self.limits]
        return value, torch.stack(slacks)


@claim(
    "constrained",
    "descent and dual ascent end at the closed-form minimum under a linear constraint, the last iterate and its multiplier",
    where="arXiv:2403.11844",
)
def ends_at_the_constrained_minimum(lab):
    oracle, batch, h, c = quadratic()
    direction = torch.tensor([1.0, -1.0, 0.5, 2.0, 0.0], dtype=torch.float64)
    limit = float(direction @ c) - 1.0
    along = Oracle(oracle.module, lambda model, batch: direction @ model())
    objective = constrained(oracle, [(along, limit)], dual_lr=0.02)
    for _ in range(500):
        objective.module.zero_grad()
        objective.backward(batch)
        with torch.no_grad():
            for p in objective.params.values():
                p -= 0.4 * p.grad
    expected = 1.0 / (direction @ torch.linalg.solve(h, direction))
    yield lab.close(objective.state["multipliers"][0], expected, rtol=1e-5)
    yield lab.close(flat(oracle.params).detach(), c - expected * torch.linalg.solve(h, direction), rtol=1e-5)


@claim(
    "constrained",
    "a constraint that holds at the minimum leaves its multiplier at zero and the minimum where it is",
    where="arXiv:2006.05487",
)
def idle_constraints_are_idle(lab):
    oracle, batch, _, _ = quadratic()
    far = Oracle(oracle.module, lambda model, batch: model().square().sum())
    objective = constrained(oracle, [(far, 1e3)])
    found = objective.value_and_grad(oracle.params, batch, statistics=True)[1]
    yield lab.equal(flat(found), flat(oracle.value_and_grad(oracle.params, batch)[1]))
    yield lab.close(objective.state["multipliers"] + 1, 1.0)
