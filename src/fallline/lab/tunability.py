"""How easy a method is to tune, from its trials: the best of k points, the width of the basin of learning rates, what tuning cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["BASIN", "basin", "best_of"]

BASIN = 0.05
"""A learning rate is in the basin if its final metric loses at most this share of what the best one gained since initialisation."""


def best_of(costs: Sequence[float]) -> tuple[str, list[tuple[int, float]]]:
    r"""The best of k points for k = 1 ... n, drawn from the trials without replacement: ("mean" or "median", [(k, value)]).

    .. math::
        \mathbb{E}[\min] = \sum_{i=1}^n x_{(i)} \binom{n - i}{k - 1} / \binom{n}{k}

    exactly, over all subsets. A trial that diverged costs ``inf``; a mean would then be infinite for small k, so where any trial
    diverged the whole curve is the median of the best of k: the smallest :math:`x_{(i)}` with
    :math:`1 - \binom{n - i}{k} / \binom{n}{k} \ge 1/2`. Where that is infinite too, k is left out.
    """
    x, n = sorted(costs), len(costs)
    if all(map(math.isfinite, x)):
        return "mean", [
            (k, math.fsum(c * math.comb(n - 1 - i, k - 1) for i, c in enumerate(x)) / math.comb(n, k))
            for k in range(1, n + 1)
        ]
    medians = [
        (k, next(c for i, c in enumerate(x) if 2 * math.comb(n - 1 - i, k) <= math.comb(n, k))) for k in range(1, n + 1)
    ]
    return "median", [(k, value) for k, value in medians if math.isfinite(value)]


def basin(
    rates: Sequence[float], costs: Sequence[float], initial: float | None, alone: bool = True
) -> dict[str, Any] | None:
    """The range of learning rates that end within 5 % of the gap closed by the best one; None where nothing was learned.

    With ``alone`` (no other hyperparameter varied) the range is the one around the best trial, its ends interpolated in log lr where the
    neighbour outside has a finite cost. Otherwise it goes from the lowest to the highest rate of any trial within 5 %. ``at_least``
    says that it reaches the lowest or the highest rate tried.
    """
    points = sorted(zip(rates, costs, strict=True))
    best = min(costs, default=math.inf)
    if initial is None or not math.isfinite(best) or best >= initial or points[0][0] <= 0:
        return None
    bound = best + BASIN * (initial - best)
    inside = [i for i, (_, cost) in enumerate(points) if cost <= bound]
    first, last = inside[0], inside[-1]
    if alone:
        first = last = next(i for i, (_, cost) in enumerate(points) if cost == best)
        while first - 1 in inside:
            first -= 1
        while last + 1 in inside:
            last += 1
    low, high = points[first][0], points[last][0]
    if alone and first > 0:
        low = _crossing(points[first], points[first - 1], bound)
    if alone and last + 1 < len(points):
        high = _crossing(points[last], points[last + 1], bound)
    return {
        "decades": math.log10(high / low),
        "low": low,
        "high": high,
        "at_least": first == 0 or last == len(points) - 1,
    }


def _crossing(inside: tuple[float, float], outside: tuple[float, float], bound: float) -> float:
    """Where the line between the two points, in log lr, meets the bound; the point inside where the other diverged."""
    if not math.isfinite(outside[1]):
        return inside[0]
    share = (bound - inside[1]) / (outside[1] - inside[1])
    return float(inside[0] * (outside[0] / inside[0]) ** share)
