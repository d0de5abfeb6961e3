"""Diagnosing a run: train with a watch on, say what happened, rerun with the proposed change, and show its effect."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

import fallline.methods  # noqa: F401 (fills the registry)
from fallline.core.errors import InvalidValueError, NotFiniteError
from fallline.core.optimizer import Optimizer
from fallline.core.oracle import of_loss
from fallline.dynamics import Finding, Record, Trouble, explain, watch
from fallline.lab.entries import gradient_method
from fallline.lab.run import RunSpec, chain_of, step_on
from fallline.lab.streams import generator, seeded
from fallline.tasks import Task, evaluate, fetch

__all__ = ["Diagnosis", "Trial", "diagnose"]

PROBES, PROBE_EXAMPLES = 8, 64
"""How often curvature and noise are taken, and on how many examples of the training data, the same ones every time."""

CLEAR = 0.02
"""A relative change of the final metric that counts as an effect; below, one run tells nothing."""


@dataclass(frozen=True)
class Trial:
    """A run with a watch on: what was run, its record, its final metric (NaN where it failed)."""

    spec: RunSpec
    record: Record
    final: float
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Diagnosis:
    """A run, what it shows, the changes that were tried, and what came of them."""

    task: Task
    trial: Trial
    changes: tuple[tuple[str, Trial], ...]  # in words, and the rerun

    @property
    def best(self) -> tuple[str, Trial] | None:
        """The change that helped most, if one clearly did."""
        helped = [(text, t) for text, t in self.changes if self.gain(t) > CLEAR]
        return max(helped, key=lambda pair: self.gain(pair[1]), default=None)

    def gain(self, trial: Trial) -> float:
        """By how much a rerun is better, relative to the run's final metric; infinite where only the rerun ended."""
        if not math.isfinite(trial.final):
            return -math.inf
        if not math.isfinite(self.trial.final):
            return math.inf
        sign = 1 if self.task.metric.minimize else -1
        return sign * (self.trial.final - trial.final) / max(abs(self.trial.final), 1e-12)

    @property
    def verdict(self) -> str:
        """In two or three sentences: the cause, the remedy and its measured effect."""
        spec, metric = self.trial.spec, self.task.metric
        had = f"{metric.name} {self.trial.final:.4g}" if math.isfinite(self.trial.final) else "no result"
        if any(f.kind == "little data" for f in self.trial.findings) and not self.changes:
            return f"{spec.method} on {spec.task}: {self.trial.findings[0].text} Give it more steps."
        if self.best is None:
            tried = ", ".join(text for text, _ in self.changes)
            return (
                f"{spec.method} on {spec.task} ended at {had}. No change that was tried ({tried}) improves it by more than {CLEAR:.0%}; at this "
                f"budget its learning rate is not what holds it back."
            )
        text, trial = self.best
        lowered = _value(trial.spec, "lr") < _value(spec, "lr")
        cause = (
            f"the learning rate {_value(spec, 'lr'):g} is too {'high' if lowered else 'low'}"
            if "lr" in text
            else f"it helps to change {text}"
        )
        return (
            f"{spec.method} on {spec.task} ended at {had}: {cause}. With {text} the same run ends at {metric.name} {trial.final:.4g}"
            + (f", {self.gain(trial):.0%} better." if math.isfinite(self.gain(trial)) else ".")
        )


def diagnose(
    task: Task,
    method: str,
    hypers: Mapping[str, float] | None = None,
    *,
    steps: int | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> Diagnosis:
    """Train as a study does, with a watch on, and explain; then rerun with the changes that the findings propose, or, where they propose
    none, with a third and three times the learning rate.

    Args:
        steps: of every run; the schedule spans them. By default 30 % of the task's budget, as ``compare --budget quick``.
    """
    entry = gradient_method(method, "diagnose")
    values = {"lr": entry.defaults["lr"], **(hypers or {})}
    entry.check(values)
    length = steps or max(1, round(0.3 * task.steps))
    if length < 1:
        raise InvalidValueError(
            f"diagnose() got steps={steps}. Expected at least 1. Leave it out for 30 % of the budget."
        )
    spec = RunSpec(task.name, method, tuple(sorted(values.items())), seed, length, "confirm")
    say(f"training {spec.method}, lr {values['lr']:g}, {length} steps")
    first = observed(task, spec)
    changes = []
    if not (first.findings[0].kind == "little data" and len(first.findings) == 1):
        for text, changed in _changes(first, float(values["lr"])):
            say(f"the same with {text}")
            changes.append((text, observed(task, changed)))
    return Diagnosis(task, first, tuple(changes))


def _changes(trial: Trial, lr: float) -> list[tuple[str, RunSpec]]:
    """Two rates to try: lower ones where a finding that matters asks for less, else one to either side."""
    wanted = [f.factors["lr"] for f in trial.findings if "lr" in f.factors and f.weight > 1]
    if wanted and min(wanted) < 1:
        factors = [0.1, 0.3] if min(wanted) > 0.03 else [0.03, 0.1]
    else:
        factors = [0.3, 3.0]
    return [(f"lr {lr * f:.2g}", _with(trial.spec, lr=float(f"{lr * f:.2g}"))) for f in factors]


def _with(spec: RunSpec, **values: float) -> RunSpec:
    return replace(spec, hypers=tuple(sorted({**dict(spec.hypers), **values}.items())))


def _value(spec: RunSpec, name: str) -> float:
    return dict(spec.hypers)[name]


def observed(task: Task, spec: RunSpec) -> Trial:
    """The run of ``spec`` as ``fallline run`` trains it, with a watch on."""
    with seeded(spec.seed, "init"):
        model = task.model()
    optimizer = Optimizer(model, chain_of(task, spec), seed=spec.seed)
    optimizer.prepare()
    count = min(PROBE_EXAMPLES, len(task.train))
    chosen = torch.randperm(len(task.train), generator=generator(spec.seed, "order"))[:count]
    watched = watch(
        model, optimizer, of_loss(model, task.loss), every=max(1, spec.steps // PROBES), probe=fetch(task.train, chosen)
    )
    watched.record.batch_size = task.batch_size
    final = math.nan
    with torch.random.fork_rng(devices=[]):
        for t in range(1, spec.steps + 1):
            try:
                watched.see(step_on(task, model, optimizer, spec.seed, t).loss)
            except NotFiniteError:
                watched.record.trouble = watched.record.trouble or Trouble(
                    t, "no gradient was finite for so long that the optimizer gave up"
                )
                break
            if watched.record.trouble is not None and not math.isfinite(watched.record.series("loss").last):
                break
        else:
            final = evaluate(task, model)
    record = watched.finish()
    return Trial(spec, record, final, tuple(explain(record)))
