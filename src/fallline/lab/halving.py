"""Successive halving of trials, for studies that explore: at a quarter and at half of the steps the worse half is given up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from fallline.core.optimizer import Optimizer
from fallline.lab.run import Record, RunSpec, advance, begin, finish
from fallline.tasks import Task

__all__ = ["RUNGS", "train_halving"]

RUNGS = (0.25, 0.5)
"""Shares of the steps after which the worse half of the trials is given up, by the metric at that evaluation."""


def train_halving(task: Task, specs: Sequence[RunSpec]) -> list[dict[str, Any]]:
    """Records of all trials of a method, in their order; those given up have the status "pruned" and no final metric.

    The schedule is that of the whole run, so what survives is exactly what it would be without pruning (Jamieson and Talwalkar,
    arXiv:1502.07943; here all trials of a rung are there before it is decided, so the order of workers plays no part).
    """
    trials = [_Trial(task, spec) for spec in specs]
    alive, kept = list(trials), len(trials)
    for share in RUNGS:
        rung = min(t for t in trials[0].record.grid if t >= share * specs[0].steps)
        for trial in alive:
            trial.train(rung)
        kept = -(-kept // 2)
        ranked = sorted(alive, key=_Trial.cost)  # stable: the earlier trial on a tie
        for trial in ranked[kept:]:
            trial.pruned = True
        alive = ranked[:kept]
    for trial in alive:
        trial.train(specs[0].steps)
    return [trial.result() for trial in trials]


class _Trial:
    """One run that can be stopped and go on."""

    model: nn.Module
    optimizer: Optimizer
    record: Record

    def __init__(self, task: Task, spec: RunSpec) -> None:
        self.task, self.pruned = task, False
        self.model, self.optimizer, self.record = begin(task, spec)

    def train(self, until: int) -> None:
        """Go on until that step is done, or the run diverges."""
        if self.record.diverged_at is not None or self.record.steps >= until:
            return
        steps = advance(self.task, self.model, self.optimizer, self.record, self.record.steps)
        for t in steps:
            if t == until:
                break

    def cost(self) -> float:
        if self.record.diverged_at is not None:
            return math.inf
        last = self.record.curve["metric"][-1]
        return last if self.task.metric.minimize else -last

    def result(self) -> dict[str, Any]:
        record = finish(self.task, self.optimizer, self.record)
        if self.pruned and record["status"] == "done":
            record |= {"status": "pruned", "final": None, "to_target": None}
        return record
