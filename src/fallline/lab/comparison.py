"""All pairs of methods on a task: difference, exact test, Holm's correction, and what the search space leaves open."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from fallline.lab.edges import overtaking_edge
from fallline.lab.statistics import (
    ALPHA,
    Interval,
    differences,
    holm,
    interval_of_mean,
    seeds_needed,
    sign_flip,
    smallest_p,
)
from fallline.lab.verdict import sentence

__all__ = ["comparisons", "worst_last"]


def comparisons(task: Mapping[str, Any], methods: Sequence[Mapping[str, Any]], command: str) -> list[dict[str, Any]]:
    """Differences of finals a - b in the metric's unit, exact tests, Holm over the task's pairs.

    A difference that a wider space of the worse method could turn round is withheld: it does not count as told apart.
    """
    minimize = task["metric"]["minimize"]
    pairs = list(combinations(methods, 2))
    costs = {m["name"]: worst_last([r["final"] for r in m["runs"]], minimize) for m in methods}
    diffs = [differences(costs[a["name"]], costs[b["name"]]) for a, b in pairs]
    ps = [sign_flip(d) for d in diffs]
    rows = []
    for (a, b), d, p, adjusted in zip(pairs, diffs, ps, holm(ps), strict=True):
        interval = interval_of_mean(d if minimize else -d)
        ahead, behind = (a, b) if _leads(d) else (b, a)
        found = adjusted <= ALPHA  # then p <= ALPHA, and the interval, which inverts the test, excludes zero
        edge = overtaking_edge(behind, ahead, _gap(d), task["initial"], minimize) if found else None
        apart = found and edge is None
        wins = int((d < 0).sum()) if ahead is a else int((d > 0).sum())
        row: dict[str, Any] = {
            "a": a["name"],
            "b": b["name"],
            "difference": _interval(interval),
            "p": p,
            "p_holm": adjusted,
            "smallest_p": min(1.0, len(pairs) * smallest_p(len(d))),
            "told_apart": apart,
            "withheld": _withheld(edge, command),
            "better": ahead["name"] if apart else None,
            "leads": ahead["name"] if np.any(d != 0) else None,
            "wins": [wins, len(d)],
            "n": len(d),
            "seeds_needed": None if found else seeds_needed(d, len(pairs)),
            "correlation": _correlation(costs[a["name"]], costs[b["name"]]),
        }
        rows.append({**row, "text": sentence(row, task["name"], task["metric"]["unit"])})
    return rows


def _gap(d: np.ndarray) -> float:
    """How much worse the worse one is in the mean."""
    return float(abs(d.mean())) if np.isfinite(d).all() else math.inf


def _withheld(edge: Mapping[str, Any] | None, command: str) -> dict[str, Any] | None:
    """Why there is no verdict, and the command that would bring one."""
    if edge is None:
        return None
    return {**edge, "command": f"{command} {edge['widen']} --out ANOTHER-FOLDER"}


def _leads(d: np.ndarray) -> bool:
    """Whether a leads: by the mean difference, or by the number of seeds where one is infinite."""
    return bool(d.mean() < 0) if np.isfinite(d).all() else bool((d < 0).sum() > (d > 0).sum())


def _correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    a, b = np.asarray(x), np.asarray(y)
    if len(a) < 3 or not np.isfinite([a, b]).all() or a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _interval(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else {"estimate": interval.estimate, "low": interval.low, "high": interval.high}


def worst_last(finals: Sequence[float | None], minimize: bool) -> list[float]:
    """Finals as costs, lower better; a diverged run is infinitely costly."""
    return [math.inf if x is None else x if minimize else -x for x in finals]
