"""One training run: a pure function of its specification, apart from the clock."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fallline.core.errors import NotFiniteError
from fallline.core.optimizer import Optimizer
from fallline.core.oracle import of_loss
from fallline.core.schedule import Schedule
from fallline.core.transform import Chain
from fallline.lab.entries import StepMethod, entry_of
from fallline.lab.streams import batch_indices, generator, seed_of, seeded
from fallline.schedules import cosine, warmup
from fallline.second_order import Direction
from fallline.tasks import Task, evaluate, fetch

__all__ = [
    "Record",
    "RunSpec",
    "Running",
    "Spent",
    "advance",
    "begin",
    "chain_of",
    "finish",
    "initial_metric",
    "schedule",
    "solver_of",
    "step_on",
    "train",
]

WARMUP_FRACTION = 0.05
DIVERGED_FACTOR, DIVERGED_FRACTION = 3.0, 0.05
Purpose = Literal["tune", "prune", "confirm", "default", "transfer", "noise"]
"""Trials, to their end or with pruning; the best of them on fresh seeds; on the tuning seed the method's defaults, AdamW's best
learning rate, and AdamW's best trial once more for the noise of its gradients."""


@dataclass(frozen=True)
class RunSpec:
    """What decides a run's numbers: task, method, hyperparameters (others at their defaults), seed and steps."""

    task: str
    method: str
    hypers: tuple[tuple[str, float], ...]
    seed: int
    steps: int
    purpose: Purpose

    @property
    def id(self) -> str:
        """A name derived from the contents, so that a run is recognised when a study resumes."""
        kind: Purpose = "noise" if self.purpose == "noise" else "tune"  # all others leave the same record
        content = json.dumps(asdict(replace(self, purpose=kind)), sort_keys=True)
        return hashlib.blake2b(content.encode(), digest_size=6).hexdigest()

    @property
    def command(self) -> str:
        """The command that reproduces the run's numbers."""
        sets = [f"--set {name}={value!r}" for name, value in self.hypers]
        parts = ["fallline run", shlex.quote(self.task), f"--method {self.method}", *sets, f"--seed {self.seed}"]
        return " ".join([*parts, f"--steps {self.steps}"])


def schedule(steps: int) -> Schedule:
    """The protocol's schedule, the same for every method: 5 % linear warm-up, then cosine decay over all remaining steps."""
    rise = max(1, round(WARMUP_FRACTION * steps))
    return warmup(rise) >> cosine(max(1, steps - rise))


def chain_of(task: Task, spec: RunSpec) -> Chain:
    """The method with the run's hyperparameters, its learning rate following the schedule."""
    method = entry_of(spec.method)
    hypers: dict[str, Any] = dict(spec.hypers)
    lr = hypers.pop("lr", method.defaults["lr"])
    if "num_batches" in method.options:
        hypers["num_batches"] = len(task.train) // task.batch_size
    return method(lr=lr * schedule(spec.steps), **hypers)


def solver_of(task: Task, spec: RunSpec, model: nn.Module) -> Direction | None:
    """Of a second-order method, what leaves its direction in the gradient's place; None for the others."""
    entry = entry_of(spec.method)
    return (
        entry.solver(of_loss(model, task.loss), spec.seed, **dict(spec.hypers))
        if isinstance(entry, StepMethod)
        else None
    )


def train(task: Task, spec: RunSpec) -> dict[str, Any]:
    """Run ``spec`` on ``task``; returns a JSON-able record. Divergence is a result, not an error.

    A run has diverged when its loss or metric is not finite, when its loss stays above three times the first one for
    5 % of the steps, or when its gradients are not finite for so long that the optimizer gives up. Times are CPU
    seconds of this process, which other processes on the machine hardly disturb.
    """
    running = begin(task, spec)
    deque(advance(task, running), maxlen=0)
    return finish(task, running)


@dataclass
class Running:
    """A run in training. ``solver`` leaves a second-order method's direction in the gradient's place; None for the others."""

    model: nn.Module
    optimizer: Optimizer
    record: Record
    solver: Direction | None = None


def begin(task: Task, spec: RunSpec) -> Running:
    """A run before its first step, its record empty."""
    with seeded(spec.seed, "init"):
        model = task.model()
    record = Record(task, spec, _fingerprint(model))
    optimizer = Optimizer(model, chain_of(task, spec), seed=spec.seed)
    optimizer.prepare()  # outside of the times
    return Running(model, optimizer, record, solver_of(task, spec, model))


def advance(
    task: Task, running: Running, begun: int = 0, judge: Callable[[Task, nn.Module], float] = evaluate
) -> Iterator[int]:
    """Train from step ``begun`` + 1 on, yielding after each step t; the record says how it went. Ends early at a divergence."""
    model, record = running.model, running.record
    with torch.random.fork_rng(devices=[]):
        for t in range(begun + 1, record.spec.steps + 1):
            try:
                spent = step_on(task, model, running.optimizer, record.spec.seed, t, running.solver)
            except NotFiniteError:
                record.diverged_at = t
                return
            if not record.alive(t, spent):
                return
            if t in record.grid and not record.evaluated(t, judge(task, model)):
                return
            yield t


def finish(task: Task, running: Running) -> dict[str, Any]:
    """What a run leaves, as JSON."""
    record = running.record
    return {
        **record.result(),
        "initial": initial_metric(task, record.spec.seed),
        "initial_parameters": record.fingerprint,
        "state_bytes_per_parameter": _state_bytes(running.optimizer, running.solver),
    }


def initial_metric(task: Task, seed: int) -> float | None:
    """The metric before the first step, taken on a model of its own; None where it is not finite. Equal for all methods."""
    with seeded(seed, "init"):
        model = task.model()
    with torch.random.fork_rng(devices=[]):
        value = evaluate(task, model)
    return value if math.isfinite(value) else None


@dataclass
class Spent:
    """What a step has taken: gradients of batches and examples seen, CPU seconds of the whole and of the optimizer."""

    loss: float = math.nan
    losses: list[float] = field(default_factory=list)  # of parts
    gradients: int = 0
    samples: int = 0
    seconds: float = 0.0
    optimizer_seconds: float = 0.0


def step_on(
    task: Task, model: nn.Module, optimizer: Optimizer, seed: int, t: int, solver: Direction | None = None
) -> Spent:
    """One step. Methods that ask for more than one gradient, or for that of all data, pay for them, and so do those with a solver."""
    began, spent, inside = time.process_time(), Spent(samples=task.batch_size), 0.0
    needs = frozenset().union(*(chain.needs for chain in optimizer.chains))
    number, chosen = _chosen(task, seed, t, fixed="batch" in needs)
    batch = fetch(task.train, chosen)
    if task.augment is not None:
        batch = task.augment(batch, generator(seed, "noise", t))
    torch.default_generator.manual_seed(seed_of(seed, "dropout", t))  # torch.manual_seed takes a millisecond

    def backward(batch: Any, weight: float = 1.0) -> Tensor:
        if solver is not None:
            loss = solver.backward(batch)
            spent.gradients += solver.gradients
            return loss
        spent.gradients += 1
        loss = weight * task.loss(model, batch)
        loss.backward()
        return loss.detach()

    def closure() -> Tensor:
        nonlocal inside
        entered = time.process_time()
        optimizer.zero_grad()
        first = spent.gradients == 0
        loss = backward(batch)
        if first:
            spent.loss = float(loss)
        inside += time.process_time() - entered
        return loss

    def full() -> Tensor:
        nonlocal inside
        entered = time.process_time()
        optimizer.zero_grad()
        total = torch.zeros(())
        for indices, weight in _all_data(task, seed, t):
            spent.samples += len(indices)
            total = total + backward(fetch(task.train, indices), weight)
        inside += time.process_time() - entered
        return total

    def part(indices: Tensor) -> Tensor:
        nonlocal inside
        entered = time.process_time()
        piece = fetch(task.train, indices)
        piece = piece if task.augment is None else task.augment(piece, noise)
        loss = task.loss(model, piece)
        loss.backward()
        spent.losses.append(float(loss.detach()))
        inside += time.process_time() - entered
        return loss.detach()

    entering = time.process_time()
    if "parts" in needs:
        noise = generator(seed, "noise", t)
        pieces = chosen.tensor_split(min(NUM_PARTS, len(chosen)))
        optimizer.step(parts=[partial(part, indices) for indices in pieces])
        spent.gradients, spent.loss = 1, math.fsum(spent.losses) / len(pieces)
    else:
        optimizer.step(closure, full=full, batch=number)
    done = time.process_time()
    spent.seconds, spent.optimizer_seconds = done - began, done - entering - inside
    return spent


NUM_PARTS = 8
"""Parts into which a batch is split for methods that look at how their gradients differ."""

FULL_BATCHES = 100
"""Batches that stand for all data where there are more."""


def _chosen(task: Task, seed: int, t: int, fixed: bool) -> tuple[int, Tensor]:
    """The examples of step t. Methods that keep something for every batch get the batches of the first epoch in new orders."""
    count = len(task.train) // task.batch_size
    if not fixed:
        return 0, batch_indices(seed, t, task.batch_size, len(task.train))
    number = int(batch_indices(seed, t, 1, count))
    return number, batch_indices(seed, number + 1, task.batch_size, len(task.train))


def _all_data(task: Task, seed: int, t: int) -> list[tuple[Tensor, float]]:
    """All training examples in batches with their weights, or, of more than FULL_BATCHES batches, as many drawn at random."""
    count = len(task.train)
    if count <= FULL_BATCHES * task.batch_size:
        return [(part, len(part) / count) for part in torch.arange(count).split(task.batch_size)]
    drawn = torch.randint(count, (FULL_BATCHES, task.batch_size), generator=generator(seed, "order", -t))
    return [(part, 1 / FULL_BATCHES) for part in drawn]


class Record:
    """What a run leaves behind: its curve, its first hit of the target, its end."""

    def __init__(self, task: Task, spec: RunSpec, fingerprint: str = "") -> None:
        self.task, self.spec, self.fingerprint = task, spec, fingerprint
        count = min(task.num_evals, spec.steps)
        self.grid = {spec.steps * k // count for k in range(1, count + 1)}
        self.curve: dict[str, list[float]] = {"steps": [], "metric": [], "train_loss": []}
        self.losses: list[float] = []
        self.first = math.nan
        self.high = 0
        self.seconds = self.optimizer_seconds = 0.0
        self.steps = self.gradients = self.samples = 0
        self.to_target: dict[str, float] | None = None
        self.diverged_at: int | None = None

    def alive(self, t: int, spent: Spent) -> bool:
        loss, self.steps, self.seconds = spent.loss, t, self.seconds + spent.seconds
        self.optimizer_seconds += spent.optimizer_seconds
        self.gradients += spent.gradients
        self.samples += spent.samples
        self.first = loss if t == 1 else self.first
        self.losses.append(loss)
        self.high = self.high + 1 if loss > DIVERGED_FACTOR * abs(self.first) else 0
        if not math.isfinite(loss) or self.high > max(5, DIVERGED_FRACTION * self.spec.steps):
            self.diverged_at = t
        return self.diverged_at is None

    def evaluated(self, t: int, metric: float) -> bool:
        if not math.isfinite(metric):
            self.diverged_at = t
            return False
        self.curve["steps"].append(t)
        self.curve["metric"].append(metric)
        self.curve["train_loss"].append(math.fsum(self.losses) / len(self.losses))
        self.losses.clear()
        reached = metric <= self.task.target if self.task.metric.minimize else metric >= self.task.target
        if reached and self.to_target is None:
            self.to_target = {
                "steps": t,
                "samples": self.samples,
                "gradient_evaluations": self.gradients,
                "seconds": self.seconds,
            }
        return True

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {name: value for name, value in vars(self).items() if name not in ("task", "spec", "grid")}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` returned."""
        vars(self).update(state)

    def result(self) -> dict[str, Any]:
        done = self.diverged_at is None
        return {
            "status": "done" if done else "diverged",
            "diverged_at": self.diverged_at,
            "final": self.curve["metric"][-1] if done else None,
            **self.curve,
            "to_target": self.to_target if done else None,
            "gradient_evaluations": self.gradients,
            "train_seconds": self.seconds,
            "step_ms": 1e3 * self.seconds / max(self.steps, 1),
            "optimizer_ms": 1e3 * self.optimizer_seconds / max(self.steps, 1),
        }


def _fingerprint(model: nn.Module) -> str:
    """A hash of the initial parameters: equal for all methods that share a seed."""
    digest = hashlib.blake2b(digest_size=8)
    for p in model.parameters():
        digest.update(p.detach().to("cpu", torch.float64).contiguous().numpy().tobytes())
    return digest.hexdigest()


def _state_bytes(optimizer: Optimizer, solver: Direction | None) -> float:
    """Bytes of state per parameter, counted on what the optimizer and the solver hold (the 8-byte step counts left out)."""
    tensors = [v for state in optimizer.state.values() for k, v in state.items() if k != "step"]
    tensors += [] if solver is None else [x for x in solver.state_dict().values() if x.dim()]
    held = sum(v.numel() * v.element_size() for v in tensors if isinstance(v, Tensor))
    return held / max(1, sum(p.numel() for group in optimizer.param_groups for p in group["params"]))
