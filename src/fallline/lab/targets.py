"""How soon targets are reached: first hits on the evaluation grid, their medians over seeds, and ratios to tuned AdamW."""

from __future__ import annotations

import math
import statistics as plain
from collections.abc import Mapping, Sequence
from typing import Any

from fallline.lab.statistics import interval_of_mean

__all__ = ["COUNTS", "SHARES", "hit", "ratio", "targets", "to_share", "to_target"]

SHARES = (0.8, 0.95, 1.0)
"""Targets: shares of the gap between the initial metric and tuned AdamW's median final."""

COUNTS = ("steps", "samples", "gradient_evaluations", "seconds")

Hits = Sequence[Mapping[str, float] | None]


def targets(final: float | None, initial: float | None, minimize: bool) -> list[dict[str, float]]:
    """Values of the metric, from how far tuned AdamW comes; none before it is known, or where it does not improve the metric."""
    if initial is None or final is None:
        return []
    gap = final - initial
    if gap == 0 or (gap < 0) != minimize:
        return []
    # the last one itself, not a sum that rounds: the median run has to reach it
    return [{"share": s, "value": final if s == 1 else initial + s * gap} for s in SHARES]


def hit(minimize: bool, run: Mapping[str, Any], target: float) -> dict[str, float] | None:
    """The first evaluation at or beyond a target; none for a run that diverged."""
    if run["status"] != "done":
        return None
    sign = 1 if minimize else -1
    steps = next((t for t, x in zip(run["steps"], run["metric"], strict=True) if sign * x <= sign * target), None)
    if steps is None:
        return None
    return {"steps": steps, "gradient_evaluations": steps * run["gradient_evaluations"] / run["steps"][-1]}


def to_share(minimize: bool, m: Mapping[str, Any], anchor: Mapping[str, Any], target: float) -> dict[str, Any]:
    """As ``to_target``, and by calibrated time: steps times the method's median time of a step."""
    hits, theirs = ([_timed(hit(minimize, r, target), x) for r in x["runs"]] for x in (m, anchor))
    counts = ("steps", "gradient_evaluations", "calibrated_seconds")
    return {**to_target(hits, counts), "ratio_to_adamw": {c: ratio(hits, theirs, c) for c in counts}}


def _timed(found: Mapping[str, float] | None, m: Mapping[str, Any]) -> dict[str, float] | None:
    return None if found is None else {**found, "calibrated_seconds": found["steps"] * m["cost"]["step_ms"] / 1e3}


def to_target(hits: Hits, counts: Sequence[str] = COUNTS) -> dict[str, Any]:
    """Medians over seeds, a miss counting as infinite; the interval is that of the median's order statistics."""
    reached = [x for x in hits if x is not None]
    out: dict[str, Any] = {"reached": len(reached), "of": len(hits)}
    for count in counts:
        values = sorted(x[count] for x in reached) + [math.inf] * (len(hits) - len(reached))
        middle = plain.median(values) if values else math.inf
        low, high = _median_interval(values)
        out[count] = (
            {"median": middle, "low": low, "high": high if math.isfinite(high) else None}
            if math.isfinite(middle)
            else None
        )
    return out


def _median_interval(ordered: Sequence[float]) -> tuple[float, float]:
    """The narrowest symmetric order statistics that cover the median with 95 %, or the extremes where n is too small."""
    n = len(ordered)
    if n == 0:
        return math.inf, math.inf
    k = 0
    while k + 1 < n / 2 and 1 - 2 * sum(math.comb(n, i) for i in range(k + 2)) / 2**n >= 0.95:
        k += 1
    return ordered[k], ordered[n - 1 - k]


def ratio(ours: Hits, theirs: Hits, count: str) -> dict[str, float] | None:
    """Geometric mean over seeds of the ratio to tuned AdamW, where both reached the target on every seed."""
    if not ours or len(ours) != len(theirs):
        return None
    logs = []
    for a, b in zip(ours, theirs, strict=True):
        if a is None or b is None or a[count] <= 0 or b[count] <= 0:
            return None
        logs.append(math.log(a[count] / b[count]))
    interval = interval_of_mean(logs)
    assert interval is not None
    return {"estimate": math.exp(interval.estimate), "low": math.exp(interval.low), "high": math.exp(interval.high)}
