"""How much faster many runs train together than one after the other: ``train_population`` beside ``train``, in turns.

Runs one after the other have one thread, as in a study; the population has as many as are asked for. Everything counts: models,
checks, batches, updates, evaluation. Of the runs one after the other only some are timed, which are all alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from fallline.core.errors import InvalidValueError, unknown
from fallline.lab import RunSpec, train, train_population
from fallline.tasks import Task, load

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
    together: bool = False  # as one population, whatever its size

    @property
    def specs(self) -> list[RunSpec]:
        """The runs."""
        rates = [1e-4 * 10 ** (k / self.rates) for k in range(self.rates)]
        return [
            RunSpec(self.task, "adamw", (("lr", lr),), seed, self.steps, "tune")
            for lr in rates
            for seed in range(self.seeds)
        ]


CASES = {
    case.task: case
    for case in (
        Case("digits-mlp", 8, 8, 90, 2, 6.0),
        Case("fashion-cnn", 2, 2, 4, 1, 1.5, together=True),
        Case("shakespeare-gpt", 2, 2, 4, 1, 2.0, together=True),
    )
}


@dataclass(frozen=True)
class Speedup:
    """What was measured: seconds of a step of a run, one after the other and together, in every round."""

    case: Case
    threads: int
    alone: tuple[float, ...]
    together: tuple[float, ...]

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


def chosen_cases(names: str | None) -> list[Case]:
    """Cases by the names of their tasks, separated by commas; all without names."""
    if names is None:
        return list(CASES.values())
    found = [name.strip() for name in names.split(",")]
    for name in found:
        if name not in CASES:
            raise unknown("task of this benchmark", name, CASES)
    return [CASES[name] for name in found]


def measure_population(
    case: Case, rounds: int, threads: int, cpu: bool = False, say: Callable[[str], None] = lambda text: None
) -> Speedup:
    """Time both in turns: wall-clock time, or with ``cpu`` the processor's, which others on the machine disturb less."""
    if rounds < 1 or threads < 1:
        raise InvalidValueError(
            f"The benchmark got rounds={rounds} and threads={threads}. Expected at least 1 of each. Write --rounds 5 --threads 2."
        )
    task = _shortened(load(case.task), case.steps)
    specs, clock = case.specs, time.process_time if cpu else time.perf_counter
    before = torch.get_num_threads()
    alone: list[float] = []
    together: list[float] = []

    def one_by_one(some: Sequence[RunSpec]) -> None:
        torch.set_num_threads(1)
        for spec in some:
            train(task, spec)

    def at_once(some: Sequence[RunSpec]) -> None:
        torch.set_num_threads(threads)
        train_population(task, some, **({"room": None} if case.together else {}))

    try:
        one_by_one(specs[:1])  # imports and compiles
        at_once([replace(spec, steps=2) for spec in specs])
        for k in range(rounds):
            say(f"{case.task}, round {k + 1} of {rounds}")
            for action, some, times in ((one_by_one, specs[: case.sample], alone), (at_once, specs, together)):
                began = clock()
                action(some)
                times.append((clock() - began) / len(some) / case.steps)
    finally:
        torch.set_num_threads(before)
    return Speedup(case, threads, tuple(alone), tuple(together))


def _shortened(task: Task, steps: int) -> Task:
    return replace(task, num_evals=max(1, round(EVALUATIONS_FROM * steps / task.steps)))
