"""How much faster many runs are as a study trains them, together where that pays, than one after the other, in turns.

Runs one after the other have one thread. Together they have one or more worker processes with a thread each, as in a study.
Everything counts: models, checks, batches, updates, evaluation. Of the runs one after the other only some are timed, which are
all alike.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch

from fallline.bench.step import check_device
from fallline.core.errors import InvalidValueError, unknown
from fallline.lab import RunSpec, train, train_population
from fallline.lab.engines import LocalEngine, RunQueue
from fallline.lab.population import ROOM, Alone
from fallline.lab.study import POPULATION
from fallline.tasks import Task, load, on_device

__all__ = ["CASES", "Case", "Speedup", "chosen_cases", "measure_population"]

EVALUATIONS_FROM = 20
"""A task's evaluations belong to its full budget; of fewer steps the benchmark takes as many fewer."""


@dataclass(frozen=True)
class Case:
    """Runs of AdamW at equally many rates and seeds, for a part of the task's steps; ``target`` is how many times as fast they
    should be."""

    task: str
    rates: int
    seeds: int
    steps: int
    sample: int  # runs that are timed one after the other
    target: float

    @property
    def specs(self) -> list[RunSpec]:
        """The runs."""
        rates = [1e-4 * 10 ** (k / self.rates) for k in range(self.rates)]
        return [
            RunSpec(self.task, "adamw", (("lr", lr),), seed, self.steps, "tune")
            for lr in rates
            for seed in range(self.seeds)
        ]


def _by_task(*cases: Case) -> dict[str, Case]:
    return {case.task: case for case in cases}


CASES = _by_task(
    Case("digits-mlp", 8, 8, 90, 8, 6.0),
    Case("fashion-cnn", 2, 2, 4, 1, 1.5),
    Case("shakespeare-gpt", 2, 2, 4, 1, 2.0),
)

GPU_CASES = _by_task(
    Case("digits-mlp", 16, 16, 90, 2, 20.0),
    Case("fashion-cnn", 4, 4, 10, 1, 1.5),
    Case("shakespeare-gpt", 4, 4, 10, 1, 2.0),
)
"""On a GPU, which a few small models leave idle, more runs train together."""


@dataclass(frozen=True)
class Speedup:
    """What was measured: seconds of a step of a run, one after the other and together, in every round."""

    case: Case
    alone: tuple[float, ...]
    together: tuple[float, ...]
    reason: str  # why the runs did not share a population, if so

    @property
    def ratios(self) -> list[float]:
        """Times as fast, round by round."""
        return [a / b for a, b in zip(self.alone, self.together, strict=True)]

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    @property
    def met(self) -> bool:
        return self.median >= self.case.target


def chosen_cases(names: str | None, device: str = "cpu") -> list[Case]:
    """Cases by the names of their tasks, separated by commas; all without names. Raises unless torch can use the device."""
    check_device(device)
    cases = CASES if device == "cpu" else GPU_CASES
    if names is None:
        return list(cases.values())
    found = [name.strip() for name in names.split(",")]
    for name in found:
        if name not in cases:
            raise unknown("task of this benchmark", name, cases)
    return [cases[name] for name in found]


def measure_population(
    case: Case,
    rounds: int,
    workers: int,
    cpu: bool = False,
    say: Callable[[str], None] = lambda text: None,
    device: str = "cpu",
) -> Speedup:
    """Time both in turns: wall-clock time with worker processes, or with ``cpu`` the time of this process's processor, in which the
    runs then train together; others on the machine disturb it less. On another ``device`` both are there, in this process."""
    if rounds < 1 or workers < 1:
        raise InvalidValueError(
            f"The benchmark got rounds={rounds} and workers={workers}. Expected at least 1 of each. Write --rounds 5 --workers 2."
        )
    task = _shortened(load(case.task), case.steps)
    task = task if device == "cpu" else on_device(task, device)
    specs, clock = case.specs, time.process_time if cpu else time.perf_counter
    alone: list[float] = []
    together: list[float] = []
    reasons: list[str] = []
    before = torch.get_num_threads()
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, before)
        torch.set_num_threads(1)
        pool = (
            None if cpu or device != "cpu" else RunQueue(stack.enter_context(LocalEngine({case.task: task}, workers)))
        )

        def at_once(some: Sequence[RunSpec]) -> None:
            if pool is None:
                try:
                    train_population(task, some, ROOM if device == "cpu" else None)
                except Alone as error:
                    reasons.append(str(error))
                    one_by_one(some)
                return
            pool.submit([some[i : i + POPULATION] for i in range(0, len(some), POPULATION)])
            deque(pool, maxlen=0)

        def one_by_one(some: Sequence[RunSpec]) -> None:
            for spec in some:
                train(task, spec)

        one_by_one(specs[:1])  # imports and compiles
        at_once([replace(spec, steps=2) for spec in specs])
        for k in range(rounds):
            say(f"{case.task}, round {k + 1} of {rounds}")
            actions = ((one_by_one, specs[: case.sample], alone), (at_once, specs, together))
            for action, some, times in actions:
                began = clock()
                action(some)
                times.append((clock() - began) / len(some) / case.steps)
        known = [] if pool is None else [pool.alone.get((case.task, specs[0].method), "")]
        reason = next(iter([*known, *reasons]), "")
    return Speedup(case, tuple(alone), tuple(together), reason)


def _shortened(task: Task, steps: int) -> Task:
    return replace(task, num_evals=max(1, round(EVALUATIONS_FROM * steps / task.steps)))
