"""What an update works on: every run's hyperparameters at its own step, its slots, the steps it has taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fallline.core.kernel import hypers_of
from fallline.core.schedule import Schedule
from fallline.core.storage import Storage
from fallline.core.transform import Chain, named_steps, static_fields

__all__ = ["Hypers", "State", "structure"]

PROBES = 8
"""Steps at which a recipe is evaluated to see which hyperparameters of its steps move with a schedule."""


def structure(chain: Chain) -> tuple[Any, ...]:
    """What runs of a population must share: the steps and all that is no hyperparameter."""
    return tuple((type(s), tuple(getattr(s, f) for f in static_fields(s))) for s in chain.steps)


class Hypers:
    """The hyperparameters of all steps of one run's chain at a step, in the order of the steps and their fields."""

    def __init__(self, chain: Chain, horizon: int) -> None:
        self._chain, self._last = chain, (0, [0.0])
        self._schedules = {n: v for n, v in chain.hypers.items() if isinstance(v, Schedule)}
        probes = {1 + k * (horizon - 1) // (PROBES - 1) for k in range(PROBES)} | {2, 3}
        seen = {t: self._evaluated(t) for t in probes}
        self._fixed = seen[1]
        # A field that is a schedule's value, or nothing but itself, at all probes needs no evaluation of the recipe.
        self._moving: list[tuple[int, Schedule]] | None = []
        for i, value in enumerate(self._fixed):
            if all(values[i] == value for values in seen.values()):
                continue
            same = [s for s in self._schedules.values() if all(v[i] == s(t) for t, v in seen.items())]
            if not same or self._moving is None:
                self._moving = None
                break
            self._moving.append((i, same[0]))

    def at(self, t: int) -> list[float]:
        """All values at the run's own step t."""
        if self._last[0] != t:
            self._last = (t, self._values(t))
        return self._last[1]

    def _values(self, t: int) -> list[float]:
        if self._moving is None:
            return self._evaluated(t)
        values, known = list(self._fixed), {}
        for i, schedule in self._moving:
            if id(schedule) not in known:
                known[id(schedule)] = schedule(t)
            values[i] = known[id(schedule)]
        return values

    def chain(self, t: int) -> Chain:
        """The chain with the values of step t."""
        return self._chain.rebuild({name: schedule(t) for name, schedule in self._schedules.items()})

    def _evaluated(self, t: int) -> list[float]:
        return [float(x) for x in hypers_of(tuple(named_steps(self.chain(t).steps)))]


@dataclass
class State:
    """What the update works on: parameters and slots, stacked; hyperparameters, steps taken and seeds by run."""

    params: dict[str, Tensor]
    slots: dict[str, dict[str, Tensor]]  # parameter -> slot -> (runs, ...)
    hypers: list[Hypers]
    taken: list[int]

    @classmethod
    def create(cls, params: dict[str, Tensor], chains: Sequence[Chain], seeds: Sequence[int], horizon: int) -> State:
        """Slots as a run by itself creates them, from its own parameters and seed."""
        slots: dict[str, dict[str, Tensor]] = {}
        for name, stack in params.items():
            made = [
                Storage(seed=seed).create(chain.steps, p, name)
                for chain, seed, p in zip(chains, seeds, stack.unbind(), strict=True)
            ]
            slots[name] = {key: torch.stack([one[key] for one in made]) for key in made[0]}
        return cls(params, slots, [Hypers(chain, horizon) for chain in chains], [0] * len(chains))

    @property
    def bytes_of_a_run(self) -> int:
        """State of one run."""
        return sum(x[0].numel() * x.element_size() for slots in self.slots.values() for x in slots.values())

    def keep(self, rows: Tensor) -> None:
        """Only these runs; the parameters are replaced by who holds them."""
        places = rows.to(next(iter(self.params.values())).device)
        self.slots = {n: {k: x.index_select(0, places) for k, x in slots.items()} for n, slots in self.slots.items()}
        self.hypers = [self.hypers[i] for i in rows.tolist()]
        self.taken = [self.taken[i] for i in rows.tolist()]
