"""Training a population: many runs of one task and one method at once, with a record for each as from ``train``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from fallline.core.guard import PATIENCE, limit
from fallline.core.optimizer import Optimizer
from fallline.core.transform import Chain
from fallline.lab.entries import STEP_METHODS
from fallline.lab.population.stack import Alone, Stack, Survey, full_precision, made, survey
from fallline.lab.population.state import State, structure
from fallline.lab.population.update import Update, make_update
from fallline.lab.run import Record, RunSpec, Spent, chain_of, initial_metric, step_on
from fallline.tasks import Task

__all__ = ["ROOM", "chunks", "train_population"]

ROOM = 24 * 2**20
"""Bytes that the runs of a population may touch in a step: what stays in the processor's cache. A constant, since the numbers of
a run must not depend on the machine's free memory."""

FEWEST = 6
"""Runs that must fit into ROOM: larger models are bound by arithmetic, of which there is as much for each run in any company."""

TIMED = 20
"""Steps of the first run by itself, from which all runs' times are estimated."""


def train_population(task: Task, specs: Sequence[RunSpec], room: int | None = ROOM) -> list[dict[str, Any]]:
    """Records of runs of one method that train at the same time, in the order of ``specs``: run k is run k alone, up to rounding.

    ``room`` is memory in bytes for one population; more runs than fit are trained in several, cut in their order. With None all
    runs are one population, whatever their size.

    Times (``train_seconds``, ``step_ms``, ``optimizer_ms``, to the target) are those of a run by itself, estimated from 20 steps of
    the first, so that methods can be compared whatever their company; ``population`` says how many runs were trained together
    and ``shared_seconds`` the time that they took, divided by their number.

    Raises Alone, with the reason in a few words, for what must or should be trained run by run (``train``).
    """
    try:
        return _trained(task, specs, room)
    except Alone:
        raise
    except Exception as error:  # of the task's code, which ``train`` shows in full, or of what vmap cannot take
        raise Alone(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}") from error


def _trained(task: Task, specs: Sequence[RunSpec], room: int | None) -> list[dict[str, Any]]:
    chains = [chain_of(task, spec) for spec in specs]
    _check(specs, chains)
    found = survey(task, specs[0].seed)
    number = len(specs) if room is None else min(len(specs), chunks(found, chains[0], room))
    if number < 2 or (room is not None and chunks(found, chains[0], room) < FEWEST):
        raise Alone("a run is large enough to keep a core busy by itself")
    parts = -(-len(specs) // number)
    size = -(-len(specs) // parts)  # of about equal size
    records: list[dict[str, Any]] = []
    for begin in range(0, len(specs), size):
        some = slice(begin, begin + size)
        records += _Population(task, specs[some], chains[some], found).run()
    return records


def chunks(found: Survey, chain: Chain, room: int) -> int:
    """Runs that fit into so many bytes: activations with their gradients, parameters, gradients and state."""
    state = sum(len(step.slots) for step in chain.steps)
    return room // (2 * found.activation_bytes + (2 + state) * found.parameter_bytes)


def _check(specs: Sequence[RunSpec], chains: Sequence[Chain]) -> None:
    """Raise Alone unless the runs are of one kind and their method asks for nothing but gradients and losses."""
    if specs[0].method in STEP_METHODS:
        raise Alone(f"{specs[0].method} solves for its direction, which takes one model at a time")
    if len({(s.task, s.method, s.steps) for s in specs}) != 1 or len({structure(c) for c in chains}) != 1:
        raise Alone("the runs differ in task, method, options or steps")
    needs = chains[0].needs - {"loss"}
    if needs:
        raise Alone(f"{specs[0].method} needs more than one gradient a step ({', '.join(sorted(needs))})")


class _Population:
    """Runs in training."""

    def __init__(self, task: Task, specs: Sequence[RunSpec], chains: Sequence[Chain], found: Survey) -> None:
        self.task, self.specs = task, list(specs)
        self.step_seconds, self.optimizer_seconds = _times(task, specs[0], chains[0])
        began = time.process_time()
        self.stack = Stack(task, [spec.seed for spec in specs], found, specs[0].steps)
        self.state = State.create(self.stack.params, chains, self.stack.seeds, specs[0].steps)
        self.update: Update | None = None
        self.records = [Record(task, spec) for spec in specs]
        self.rows = list(range(len(specs)))  # the run of every row of the stack
        self.refused = [0] * len(specs)  # steps in a row without a finite gradient, by run
        self.began = began

    def run(self) -> list[dict[str, Any]]:
        """Train all to their end."""
        with torch.no_grad():
            for t in range(1, self.specs[0].steps + 1):
                if not self._step(t):
                    break
        shared = (time.process_time() - self.began) / len(self.specs)
        held = self.state.bytes_of_a_run / sum(p.numel() for p in self.stack.model.parameters())
        initial = {seed: initial_metric(self.task, seed) for seed in {spec.seed for spec in self.specs}}
        return [
            {
                **record.result(),
                "initial": initial[spec.seed],
                "initial_parameters": self.stack.fingerprints[spec.seed],
                "state_bytes_per_parameter": held,
                "population": len(self.specs),
                "shared_seconds": shared,
            }
            for spec, record in zip(self.specs, self.records, strict=True)
        ]

    def _step(self, t: int) -> bool:
        """One step of all runs that are alive; whether any is, afterwards."""
        with full_precision(self.stack.device) if t == 1 else nullcontext():
            losses, gradients = self.stack.gradients(t)
        if t == 1:
            self.stack.check(losses, gradients)
        alive = [i for i, run in enumerate(self.rows) if self.records[run].diverged_at is None]
        self._move(losses, gradients, self._sound(gradients, alive))
        values = losses.tolist()
        for i in alive:
            spent = Spent(values[i], [], 1, self.task.batch_size, self.step_seconds, self.optimizer_seconds)
            self.records[self.rows[i]].alive(t, spent)
        alive = [i for i in alive if self.records[self.rows[i]].diverged_at is None]
        if alive and t in self.records[0].grid:
            for i, metric in zip(alive, self.stack.evaluate(alive), strict=True):
                self.records[self.rows[i]].evaluated(t, metric)
            alive = [i for i in alive if self.records[self.rows[i]].diverged_at is None]
        if alive and 4 * len(alive) <= 3 * len(self.rows):
            self._keep(alive)
        return bool(alive)

    def _sound(self, gradients: Mapping[str, Tensor], alive: Sequence[int]) -> list[int]:
        """The rows to step: those in which every gradient and its square are finite."""
        rows = [g.flatten(1) for g in gradients.values()]
        norms = torch.stack([torch.linalg.vector_norm(g, dim=1) for g in rows])
        # A norm is finite only if every square is; one that is not may still have overflowed by itself.
        fine = [
            ok or all(bool((g[i].abs() <= limit(g.dtype)).all()) for g in rows)
            for i, ok in enumerate(norms.isfinite().all(0).tolist())
        ]
        for i in alive:
            run = self.rows[i]
            self.refused[run] = 0 if fine[i] else self.refused[run] + 1
            if self.refused[run] >= PATIENCE:  # where the optimizer of a run by itself gives up
                raise Alone("gradients stay without a finite value")
        return [i for i in alive if fine[i]]

    def _move(self, losses: Tensor, gradients: Mapping[str, Tensor], rows: Sequence[int]) -> None:
        for i in rows:
            self.state.taken[i] += 1
        if self.update is None and rows:
            self.update = make_update(self.state, gradients, losses, rows)
        if rows and self.update is not None:
            self.update.step(gradients, losses, rows)

    def _keep(self, alive: Sequence[int]) -> None:
        """Leave out the runs that have diverged."""
        rows = torch.tensor(alive)
        self.stack.keep(rows)
        self.state.keep(rows)
        self.state.params = self.stack.params
        self.rows = [self.rows[i] for i in alive]
        if self.update is not None:
            self.update = self.update.renewed()


def _times(task: Task, spec: RunSpec, chain: Chain) -> tuple[float, float]:
    """CPU seconds of a step of a run by itself and of its optimizer in it, the medians of some steps."""
    model = made(task, spec.seed)
    optimizer = Optimizer(model, chain, seed=spec.seed)
    optimizer.prepare()
    with torch.random.fork_rng(devices=[]):
        spent = [step_on(task, model, optimizer, spec.seed, t) for t in range(1, min(TIMED, spec.steps) + 1)]
    middle = len(spent) // 2
    return sorted(s.seconds for s in spent)[middle], sorted(s.optimizer_seconds for s in spent)[middle]
