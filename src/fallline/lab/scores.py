"""Scores over several tasks, from a table of times: performance profiles, AlgoPerf's score, and a score anchored to one method.

A table is ``{method: {task: time}}``: any clock, lower is better, ``inf`` for a target that was missed. Profiles and AlgoPerf's score
compare with the best of the field, so a method that comes or goes can turn the order of two others round; the anchored score cannot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.integrate import trapezoid

__all__ = [
    "algoperf",
    "algoperf_rules",
    "anchored",
    "order",
    "profile",
    "ranking",
    "ratios",
]

Table = Mapping[str, Mapping[str, float]]
Seeds = Mapping[str, Mapping[str, Sequence[float]]]

LIMIT = 4.0
"""The largest ratio to the best that earns anything in AlgoPerf's score."""

MISS = 2.0
"""Budgets that a miss counts in the anchored score, on either side."""

RESAMPLES = 2000


def ratios(times: Table) -> dict[str, dict[str, float]]:
    """Each time divided by the best of its task (Dolan and More 2002); ``inf`` for a miss, also where all miss."""
    tasks = _tasks(times)
    best = {t: min(times[m][t] for m in times) for t in tasks}
    return {m: {t: times[m][t] / best[t] if math.isfinite(times[m][t]) else math.inf for t in tasks} for m in times}


def profile(times: Table) -> dict[str, list[tuple[float, float]]]:
    r"""Performance profiles, :math:`\rho_m(\tau)`: the share of tasks that m solves within :math:`\tau` times the best time.

    A step function, as its points (tau, rho): rho holds from its tau to the next. The first point is at tau = 1.
    (Dolan and More 2002, doi:10.1007/s101070100263.)
    """
    found = {}
    for m, row in ratios(times).items():
        steps = sorted({1.0, *(r for r in row.values() if math.isfinite(r))})
        found[m] = [(tau, sum(r <= tau for r in row.values()) / len(row)) for tau in steps]
    return found


def algoperf(times: Table, limit: float = LIMIT, points: int | None = None) -> dict[str, float]:
    r"""AlgoPerf's score: the area under the performance profile from 1 to ``limit``, divided by ``limit - 1``.

    .. math::
        B_m = \frac{1}{R - 1} \int_1^R \rho_m(\tau) \, d\tau
            = \frac{1}{n} \sum_w \max\left(0, \frac{R - r_{m,w}}{R - 1}\right)

    Exact by the right-hand side, since the integral of an indicator is a clipped distance; with ``points`` the trapezoidal rule on as
    many points, as the official scorer has it with 100. (Dahl et al., arXiv:2306.07179.)
    """
    found = {}
    for m, row in ratios(times).items():
        r = np.array(list(row.values()))
        if points is None:
            found[m] = float(np.clip((limit - r) / (limit - 1), 0.0, None).mean())
        else:
            tau = np.linspace(1.0, limit, points)
            found[m] = float(trapezoid((r[:, None] <= tau).mean(0), tau) / (limit - 1))
    return found


def algoperf_rules(times: Table, variants: Mapping[str, str], limit: float = LIMIT) -> dict[str, dict[str, float]]:
    """What AlgoPerf v0.5 does to a table before it is scored; ``variants`` maps a held-out variant to its base.

    In this order: what was not run is a miss; so is a variant whose base was missed; so is a time above ``limit`` times the best of its
    column; so is a base whose variant is a miss by now. The bases are kept.
    """
    columns = list(dict.fromkeys(t for row in times.values() for t in row))
    table = {m: {t: row.get(t, math.inf) for t in columns} for m, row in times.items()}
    for row in table.values():
        row.update({v: math.inf for v, base in variants.items() if math.isinf(row[base])})
    best = {t: min(row[t] for row in table.values()) for t in columns}
    for row in table.values():
        row.update({t: math.inf for t in columns if row[t] > limit * best[t]})
        row.update({base: math.inf for v, base in variants.items() if math.isinf(row[v])})
    return {m: {t: x for t, x in row.items() if t not in variants} for m, row in table.items()}


def anchored(times: Table, anchor: str, budgets: Mapping[str, float], miss: float = MISS) -> dict[str, float]:
    """The geometric mean over tasks of how much faster than ``anchor`` a method is; 1 for the anchor itself, above 1 is faster.

    A miss counts as ``miss`` budgets of the task, on either side: two misses are a draw. No other method enters, so none can change it.
    """

    def cost(m: str, t: str) -> float:
        return times[m][t] if math.isfinite(times[m][t]) else miss * budgets[t]

    tasks = _tasks(times)
    return {m: math.exp(math.fsum(math.log(cost(anchor, t) / cost(m, t)) for t in tasks) / len(tasks)) for m in times}


def order(scores: Mapping[str, float]) -> list[str]:
    """Names from the highest score to the lowest; equal scores in the order given."""
    return sorted(scores, key=lambda m: -scores[m])


def ranking(seeds: Seeds, anchor: str, budgets: Mapping[str, float], resamples: int = RESAMPLES) -> dict[str, Any]:
    """Everything about the order of methods over tasks, and how stable it is.

    ``seeds`` is ``{method: {task: times over the seeds}}``; a method's time on a task is the median over seeds, a miss taking part
    as ``inf``. The order is that of the anchored score. Intervals and ``p_best`` come from a bootstrap of tasks and, within each task,
    of seeds: the same draws for all methods, whose runs are paired. Fixed stream.
    """
    times = {m: {t: _median(x) for t, x in row.items()} for m, row in seeds.items()}
    scores = anchored(times, anchor, budgets)
    fields = {"exact": algoperf(times), "trapezoid": algoperf(times, points=100)}
    drawn = _bootstrap(seeds, anchor, budgets, resamples)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    top = drawn >= drawn.max(axis=1, keepdims=True) * (1 - 1e-12)
    share = (top / top.sum(axis=1, keepdims=True)).mean(axis=0)
    names = list(times)
    without_method = {
        out: order(algoperf({m: row for m, row in times.items() if m != out})) for out in names if out != anchor
    }
    without_task = {
        out: order(anchored({m: _without(row, out) for m, row in times.items()}, anchor, budgets))
        for out in (_tasks(times) if len(_tasks(times)) > 1 else ())
    }
    return {
        "profile": {m: [list(point) for point in points] for m, points in profile(times).items()},
        "scores": {
            m: {
                "anchored": {"estimate": scores[m], "low": float(low[i]), "high": float(high[i])},
                "algoperf": fields["exact"][m],
                "algoperf_trapezoid": fields["trapezoid"][m],
            }
            for i, m in enumerate(names)
        },
        "p_best": {m: float(share[i]) for i, m in enumerate(names)},
        "order": order(scores),
        "order_algoperf": order(fields["exact"]),
        "without_method": without_method,
        "without_task": without_task,
        "flips": _flips(times, anchor, budgets, scores, fields["exact"], without_method, without_task),
    }


def _flips(
    times: Table,
    anchor: str,
    budgets: Mapping[str, float],
    scores: Mapping[str, float],
    field: Mapping[str, float],
    without_method: Mapping[str, list[str]],
    without_task: Mapping[str, list[str]],
) -> list[str]:
    """What would put another method first, in sentences."""
    first, found = order(scores)[0], []
    found += [
        f"Without the task {out}, {names[0]} comes first, not {first}."
        for out, names in without_task.items()
        if names[0] != first
    ]
    for count in (1.0, 2 * MISS):
        other = order(anchored(times, anchor, budgets, count))[0]
        if other != first:
            found.append(
                f"If a missed target counted {count:g} budgets, not {MISS:g}, {other} would come first, not {first}."
            )
    best = order(field)[0]
    if best != first:
        found.append(
            f"By AlgoPerf's score, which compares with the best of the field, {best} comes first, not {first}."
        )
    found += [
        f"By AlgoPerf's score, {names[0]} comes first without {out} in the field, not {best}."
        for out, names in without_method.items()
        if out != best and names[0] != best
    ]
    return found


def _bootstrap(seeds: Seeds, anchor: str, budgets: Mapping[str, float], resamples: int) -> np.ndarray:
    """Anchored scores of resampled tasks and seeds, shape (resamples, methods)."""
    random = np.random.default_rng(0)
    tasks, names = list(next(iter(seeds.values()))), list(seeds)
    gains = np.empty((len(tasks), resamples, len(names)))  # log speed-ups on every task, its seeds resampled
    for k, t in enumerate(tasks):
        x = np.array([seeds[m][t] for m in names], float)
        drawn = np.median(x[:, random.integers(x.shape[1], size=(resamples, x.shape[1]))], axis=2)
        cost = np.log(np.where(np.isfinite(drawn), drawn, MISS * budgets[t]))
        gains[k] = (cost[names.index(anchor)] - cost).T
    chosen = random.integers(len(tasks), size=(len(tasks), resamples))
    return np.exp(gains[chosen, np.arange(resamples)].mean(axis=0))


def _median(values: Sequence[float]) -> float:
    """Infinite where half of the seeds miss: half is no majority."""
    return float(np.median(np.asarray(values, float)))


def _tasks(times: Table) -> list[str]:
    return list(next(iter(times.values())))


def _without(row: Mapping[str, float], out: str) -> dict[str, float]:
    return {t: x for t, x in row.items() if t != out}
