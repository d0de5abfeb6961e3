"""One training run: a pure function of its specification, apart from the clock."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import time
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fallline.core.method import METHODS
from fallline.core.optimizer import Optimizer
from fallline.core.schedule import Schedule
from fallline.lab.streams import batch_indices, generator, seed_of, seeded
from fallline.schedules import cosine, warmup
from fallline.tasks import Task, evaluate, fetch

__all__ = ["RunSpec", "schedule", "train"]

WARMUP_FRACTION = 0.05
DIVERGED_FACTOR, DIVERGED_FRACTION = 3.0, 0.05
Purpose = Literal["tune", "confirm"]


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
        content = json.dumps(asdict(replace(self, purpose="tune")), sort_keys=True)
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


def train(task: Task, spec: RunSpec) -> dict[str, Any]:
    """Run ``spec`` on ``task``; returns a JSON-able record. Divergence is a result, not an error.

    A run has diverged when its loss or metric is not finite, or when its loss stays above three times the first one for
    5 % of the steps. Times are CPU seconds of this process, which other processes on the machine hardly disturb.
    """
    with seeded(spec.seed, "init"):
        model = task.model()
    fingerprint = _fingerprint(model)
    method = METHODS[spec.method]
    hypers = dict(spec.hypers)
    lr = hypers.pop("lr", method.defaults["lr"])
    optimizer = Optimizer(model, method(lr=lr * schedule(spec.steps), **hypers))
    record = _Record(task, spec)
    with torch.random.fork_rng(devices=[]):
        for t in range(1, spec.steps + 1):
            if not record.alive(t, *_step(task, model, optimizer, spec.seed, t)):
                break
            if t in record.grid and not record.evaluated(t, evaluate(task, model)):
                break
    return {**record.result(), "initial_parameters": fingerprint, "state_bytes_per_parameter": _state_bytes(optimizer)}


def _step(task: Task, model: nn.Module, optimizer: Optimizer, seed: int, t: int) -> tuple[float, float, float]:
    """One step; returns the loss and the CPU seconds of the whole step and of the optimizer."""
    began = time.process_time()
    batch = fetch(task.train, batch_indices(seed, t, task.batch_size, len(task.train)))
    if task.augment is not None:
        batch = task.augment(batch, generator(seed, "noise", t))
    torch.manual_seed(seed_of(seed, "dropout", t))
    optimizer.zero_grad()
    loss = task.loss(model, batch)
    loss.backward()
    value = float(loss.detach())
    ready = time.process_time()
    optimizer.step(loss=loss.detach())
    done = time.process_time()
    return value, done - began, done - ready


class _Record:
    """What a run leaves behind: its curve, its first hit of the target, its end."""

    def __init__(self, task: Task, spec: RunSpec) -> None:
        self.task, self.spec = task, spec
        count = min(task.num_evals, spec.steps)
        self.grid = {spec.steps * k // count for k in range(1, count + 1)}
        self.curve: dict[str, list[float]] = {"steps": [], "metric": [], "train_loss": []}
        self.losses: list[float] = []
        self.first = math.nan
        self.high = 0
        self.seconds = self.optimizer_seconds = 0.0
        self.steps = 0
        self.to_target: dict[str, float] | None = None
        self.diverged_at: int | None = None

    def alive(self, t: int, loss: float, seconds: float, optimizer_seconds: float) -> bool:
        self.steps, self.seconds = t, self.seconds + seconds
        self.optimizer_seconds += optimizer_seconds
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
                "samples": t * self.task.batch_size,
                "gradient_evaluations": t,
                "seconds": self.seconds,
            }
        return True

    def result(self) -> dict[str, Any]:
        done = self.diverged_at is None
        return {
            "status": "done" if done else "diverged",
            "diverged_at": self.diverged_at,
            "final": self.curve["metric"][-1] if done else None,
            **self.curve,
            "to_target": self.to_target if done else None,
            "train_seconds": self.seconds,
            "step_ms": 1e3 * self.seconds / self.steps,
            "optimizer_ms": 1e3 * self.optimizer_seconds / self.steps,
        }


def _fingerprint(model: nn.Module) -> str:
    """A hash of the initial parameters: equal for all methods that share a seed."""
    digest = hashlib.blake2b(digest_size=8)
    for p in model.parameters():
        digest.update(p.detach().to(torch.float64).contiguous().numpy().tobytes())
    return digest.hexdigest()


def _state_bytes(optimizer: Optimizer) -> float:
    """Bytes of state per parameter, counted on what the optimizer holds (the 8-byte step counts left out)."""
    tensors = [v for state in optimizer.state.values() for k, v in state.items() if k != "step"]
    held = sum(v.numel() * v.element_size() for v in tensors if isinstance(v, Tensor))
    return held / max(1, sum(p.numel() for group in optimizer.param_groups for p in group["params"]))
