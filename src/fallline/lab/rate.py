"""Find the learning rate of a method on a task: a bracket from short probes, then short runs with the real schedule inside it.

    from fallline.lab import find_rate
    found = find_rate(load("digits-mlp"), "adamw")
    found.rate, found.basin, found.confidence

It is for choosing a rate, not for comparing methods: it looks at results while it chooses what to run next.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from fallline.core.errors import InvalidValueError
from fallline.core.optimizer import Optimizer
from fallline.lab.bracket import NUM_LOSSES, NUM_PROBES, Bracket, Loop, bracket_of
from fallline.lab.design import BUDGETS
from fallline.lab.entries import gradient_method
from fallline.lab.run import RunSpec, step_on, train
from fallline.lab.streams import batch_indices, generator, seed_of, seeded
from fallline.tasks import Task, evaluate, fetch

__all__ = ["FoundRate", "Trial", "find_rate", "sweep"]

SHARE = 1 / 4  # of the steps, in the first round
KEPT = 1 / 4  # of the rates, for the second round, and never fewer than two
NUM_SEEDS = 3  # in the second round
TOLERANCE = 0.05  # of the best result, and of the progress since before training: what counts as equally good
ABOVE = 2  # half decades above the edge that are tried, since warm-up and decay carry further than a constant rate
BELOW = 4  # half decades below it, at least
FARTHEST = 4  # half decades that the second round may walk beyond the first one's grid
AGREE = 2.0  # largest ratio of the probes' edges to count as one


@dataclass(frozen=True)
class Trial:
    """One rate: the share of the steps, and the final metric for each seed, None where it diverged."""

    rate: float
    share: float
    finals: tuple[float | None, ...]

    @property
    def mean(self) -> float | None:
        """None if any seed diverged."""
        values = [x for x in self.finals if x is not None]
        return statistics.fmean(values) if len(values) == len(self.finals) else None


@dataclass(frozen=True)
class FoundRate:
    """The answer. ``basin`` is the range of rates whose results are as good as the best one's, within 5 % of it (and of the progress) or its noise;
    ``closed`` says for its two ends whether a worse rate was seen beyond. ``rate`` is None where nothing can be told.

    ``confidence`` is "sure", "fairly sure" or "cannot tell", and ``reasons`` says why it is not more. ``runs`` is the cost of the short
    runs in whole ones; ``gradient_evaluations`` that of all, with the probes of the bracket, where ``find_rate`` trained, else of the probes.
    """

    bracket: Bracket
    trials: tuple[Trial, ...]
    rate: float | None = None
    basin: tuple[float, float] | None = None
    closed: tuple[bool, bool] = (False, False)
    confidence: Literal["sure", "fairly sure", "cannot tell"] = "cannot tell"
    reasons: tuple[str, ...] = ()
    gradient_evaluations: int = 0
    steps: int | None = None

    @property
    def decades(self) -> float:
        """The width of the basin; 0 if only one of the rates tried is good."""
        return math.log10(self.basin[1] / self.basin[0]) if self.basin else 0.0

    @property
    def runs(self) -> float:
        """Runs of all steps that the trials cost."""
        return sum(trial.share * len(trial.finals) for trial in self.trials)


def find_rate(
    task: Task,
    method: str,
    hypers: Mapping[str, float] | None = None,
    *,
    steps: int | None = None,
    seed: int = 0,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> FoundRate:
    """The rate of ``method`` on ``task`` for runs of ``steps`` steps (30 % of the task's budget by default).

    ``hypers`` are the other hyperparameters. ``on_trial`` is called after each rate. Raises FalllineError for unknown names, values outside
    their domain, a rate in ``hypers``, and a loss that is not finite before training.
    """
    others = dict(hypers or {})
    if "lr" in others:
        raise InvalidValueError(
            f"The search for a rate got lr={others['lr']!r}. The rate is what it looks for; other hyperparameters may be given. "
            f"Leave lr out, or train once with fallline run."
        )
    gradient_method(method, "lr").check(others)
    steps = max(1, round(BUDGETS["quick"].step_fraction * task.steps)) if steps is None else steps
    if steps < 1:
        raise InvalidValueError(f"The search for a rate got steps={steps}. Expected at least 1. Write for example 200.")
    horizon, spent = steps, 0

    def run(rate: float, trial_seed: int, share: float) -> float | None:
        nonlocal spent
        given = tuple(sorted({**others, "lr": rate}.items()))
        spec = RunSpec(task.name, method, given, seed + trial_seed, max(1, round(share * horizon)), "tune")
        record = train(task, spec)
        spent += record["gradient_evaluations"]
        final: float | None = record["final"]
        return final

    with torch.random.fork_rng(devices=[]):
        bracket = bracket_of([_loop(task, method, others, seed + i) for i in range(NUM_PROBES)])
    with seeded(seed, "init"):
        untrained = evaluate(task, task.model())
    found = sweep(run, bracket, minimise=task.metric.minimize, untrained=untrained, on_trial=on_trial)
    return replace(found, gradient_evaluations=bracket.gradient_evaluations + spent, steps=steps)


def sweep(
    run: Callable[[float, int, float], float | None],
    bracket: Bracket,
    *,
    minimise: bool = True,
    untrained: float | None = None,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> FoundRate:
    """Two rounds of successive halving on half decades of the bracket, then a walk until both ends of the basin are seen.

    ``run(rate, seed, share)`` trains with the real schedule over that share of the steps and gives the final metric, or None if it diverged;
    it may be a loop of your own. The first round takes every rate for a quarter of the steps, the second the best
    quarter of the rates for all steps on three seeds. ``untrained`` is the metric before training: results no better than it are no answer.
    """
    if bracket.low is None or bracket.high is None:
        return FoundRate(bracket, (), reasons=(bracket.unclear,), gradient_evaluations=bracket.gradient_evaluations)

    def tried(k: int, share: float, seeds: int) -> Trial:
        trial = Trial(_nice(k), share, tuple(run(_nice(k), seed, share) for seed in range(seeds)))
        on_trial(trial)
        return trial

    grid = _grid(bracket.low, bracket.high, bracket.edge)
    first = {k: tried(k, SHARE, 1) for k in grid}
    ranked = sorted(grid, key=lambda k: _badness(first[k], minimise))
    full = {k: tried(k, 1.0, NUM_SEEDS) for k in sorted(ranked[: max(2, int(KEPT * len(grid)))])}
    while True:
        inside = _basin(full, minimise, untrained)
        ends = (min(inside) - 1, max(inside) + 1)
        beyond = [k for k in ends if k not in full and grid[0] - FARTHEST <= k <= grid[-1] + FARTHEST]
        if not beyond:
            break
        full |= {k: tried(k, 1.0, NUM_SEEDS) for k in beyond}
    return _judged(bracket, first, full, minimise, untrained)


def _grid(low: float, high: float, edge: float | None) -> list[int]:
    """Half decades from well below the edge, or from the lowest rate that makes progress, to above the edge."""
    if edge is None:
        return list(range(_place(low), _place(high) + 1))
    top = _place(edge)
    return list(range(min(_place(low), top - BELOW), top + ABOVE + 1))


def _place(rate: float) -> int:
    return math.floor(2 * math.log10(rate))


def _nice(k: int) -> float:
    """Half decade k as 1, 3, 10, 30 ..."""
    return float(f"{3 if k % 2 else 1}e{k // 2}")


def _badness(trial: Trial, minimise: bool) -> float:
    value = trial.mean
    return math.inf if value is None else value if minimise else -value


def _basin(trials: Mapping[int, Trial], minimise: bool, untrained: float | None) -> list[int]:
    """The places around the best one, without a gap, whose results are as good as it."""
    badness = {k: _badness(trial, minimise) for k, trial in trials.items()}
    best = min(badness, key=lambda k: badness[k])
    if badness[best] == math.inf:
        return [min(trials)]  # all diverged: the walk goes on below
    limit = _limit(trials[best], minimise, untrained)
    found = [best]
    for side in (-1, 1):
        k = best + side
        while badness.get(k, math.inf) <= limit:
            found.append(k)
            k += side
    return found


def _limit(best: Trial, minimise: bool, untrained: float | None) -> float:
    """The worst result that counts as good as the best: within 5 % of it and of the progress, or two standard errors of its mean."""
    value = _badness(best, minimise)
    start = untrained if minimise or untrained is None else -untrained
    near = TOLERANCE * (abs(value) if start is None else min(abs(value), abs(start - value)))
    values = [x for x in best.finals if x is not None]
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return value + max(near, 2 * error)


def _judged(
    bracket: Bracket, first: Mapping[int, Trial], full: Mapping[int, Trial], minimise: bool, untrained: float | None
) -> FoundRate:
    trials = (*first.values(), *(full[k] for k in sorted(full)))
    inside = sorted(_basin(full, minimise, untrained))
    best = min(inside, key=lambda k: _badness(full[k], minimise))
    answer = FoundRate(bracket, trials, gradient_evaluations=bracket.gradient_evaluations)
    if full[best].mean is None:
        return replace(answer, reasons=("every run diverged",))
    if untrained is not None and (untrained if minimise else -untrained) <= _limit(full[best], minimise, untrained):
        return replace(answer, reasons=(f"the best runs end no better than before training, at {untrained:.4g}",))
    closed = (inside[0] - 1 in full, inside[-1] + 1 in full)
    reasons = []
    if not bracket.edges:
        reasons.append("no rate diverged in the probes")
    elif max(bracket.edges) > AGREE * min(bracket.edges):
        reasons.append(f"the probes' edges run from {min(bracket.edges):.2g} to {max(bracket.edges):.2g}")
    if not all(closed):
        reasons.append("an end of the basin was not found")
    if not _agreed(full, inside, best, minimise):
        reasons.append("seeds differ on the best rate of the basin")
    return replace(
        answer,
        rate=_nice(best),
        basin=(_nice(inside[0]), _nice(inside[-1])),
        closed=closed,
        confidence="fairly sure" if reasons else "sure",
        reasons=tuple(reasons),
    )


def _agreed(full: Mapping[int, Trial], inside: Sequence[int], best: int, minimise: bool) -> bool:
    """Whether every seed has its best rate of the basin within half a decade of ``best``."""
    sign = 1 if minimise else -1
    finals = {k: [x for x in full[k].finals if x is not None] for k in inside}
    return all(abs(min(inside, key=lambda k: sign * finals[k][i]) - best) <= 1 for i in range(NUM_SEEDS))


def _loop(task: Task, method: str, hypers: Mapping[str, Any], seed: int) -> Loop:
    """The task's training at a constant rate, from the initialisation and with the batches of ``seed``."""
    entry = gradient_method(method, "lr")
    with seeded(seed, "init"):
        model = task.model()
    options = {"num_batches": len(task.train) // task.batch_size} if "num_batches" in entry.options else {}
    optimizer = Optimizer(model, entry(lr=entry.defaults["lr"], **hypers, **options), seed=seed)

    def step(t: int) -> tuple[float, int]:
        spent = step_on(task, model, optimizer, seed, t)
        return spent.loss, spent.gradients

    def losses() -> list[float]:
        found = []
        for t in range(1, NUM_LOSSES + 1):
            batch = fetch(task.train, batch_indices(seed, t, task.batch_size, len(task.train)))
            batch = batch if task.augment is None else task.augment(batch, generator(seed, "noise", t))
            torch.default_generator.manual_seed(seed_of(seed, "dropout", t))
            found.append(float(task.loss(model, batch).detach()))
        return found

    return Loop(model, optimizer, step, losses)
