"""Paired statistics over seeds: exact sign-flip tests, the intervals that go with them, Holm's correction, and what n can show.

Spread differs up to sixty-fold between optimizers on one task, so nothing here assumes equal variances or normality: seeds
are paired (same initial weights, same batches), and only the differences matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats

__all__ = [
    "Interval",
    "default_num_seeds",
    "differences",
    "holm",
    "interval_of_mean",
    "seeds_needed",
    "sign_flip",
    "smallest_p",
]

LEVEL, ALPHA, POWER = 0.95, 0.05, 0.8
_EXACT_UP_TO = 16


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % confidence interval."""

    estimate: float
    low: float
    high: float

    def excludes(self, value: float) -> bool:
        return not self.low <= value <= self.high


def differences(a: Sequence[float], b: Sequence[float]) -> np.ndarray:
    """Paired differences a - b; a seed on which both diverged (both infinite) is a draw."""
    x, y = np.asarray(a, float), np.asarray(b, float)
    with np.errstate(invalid="ignore"):
        return np.where(x == y, 0.0, x - y)


def sign_flip(d: Sequence[float] | np.ndarray) -> float:
    """Two-sided p of the hypothesis that the differences are symmetric about zero: all 2^n sign patterns, exactly.

    The statistic is \\|sum d\\|. A diverged seed gives an infinite difference; then signed ranks take the differences'
    place, with the infinite ones ranked highest. Beyond 16 seeds, 2^15 patterns from a fixed stream stand in for all.
    """
    x = np.asarray(d, float)
    if not np.isfinite(x).all():
        x = np.sign(x) * stats.rankdata(np.abs(x)) * (x != 0)
    observed = abs(x.sum())
    sums = x.sum() - 2 * (_flipped(len(x)) @ x)
    return float((np.abs(sums) >= observed * (1 - 1e-12)).mean())


@cache
def _flipped(n: int) -> np.ndarray:
    """Which of n signs are turned, shape (patterns, n), none in the first row. Of a pattern and its opposite, which give the same
    sum but for its sign, there is one."""
    if n <= _EXACT_UP_TO:
        return ((np.arange(2 ** max(0, n - 1))[:, None] >> np.arange(n)) & 1).astype(float)
    chosen = np.random.default_rng(0).integers(0, 2, size=(2 ** (_EXACT_UP_TO - 1), n)).astype(float)
    chosen[0] = 0  # the pattern observed is one of those counted
    return chosen


def smallest_p(n: int) -> float:
    """The smallest p that ``sign_flip`` can return for n seeds: 2 / 2^n."""
    return min(1.0, 2.0 ** (1 - n))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: they bound the chance of any false difference among all pairs (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    adjusted, running = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = running
    return adjusted


def default_num_seeds(num_methods: int) -> int:
    """The fewest seeds with which Holm over all pairs can reach 0.05: 7 for three methods, 9 for five."""
    num_pairs = max(1, math.comb(num_methods, 2))
    return max(6, math.ceil(1 + math.log2(num_pairs / ALPHA)))


def interval_of_mean(x: Sequence[float] | np.ndarray) -> Interval | None:
    """The mean with its 95 % interval; None unless all are finite.

    From six values on, the values that ``sign_flip`` would not reject as the centre, at 5 %: it excludes zero exactly where the test
    has p <= 0.05. Its ends are among the means of all subsets (Hartigan 1969, J. Am. Stat. Assoc. 64, 1303), and its coverage is
    exact for every symmetric distribution, however heavy its tails. Fewer values cannot reject anything; there it is Student's interval,
    which is exact for normal noise. A single value, or equal values, give an interval of no length.
    """
    x = np.asarray(x, float)
    n = len(x)
    if n == 0 or not np.isfinite(x).all():
        return None
    mean = float(x.mean())
    if n == 1 or np.ptp(x) <= 1e-12 * max(1e-300, abs(mean)):
        return Interval(mean, mean, mean)
    if smallest_p(n) > ALPHA:
        half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * x.std(ddof=1)) / math.sqrt(n)
        return Interval(mean, mean - half, mean + half)
    flipped = _flipped(n)
    kept = 1 - flipped
    parts = np.concatenate([side[side.any(axis=1)] for side in (flipped, kept)])
    means = np.sort(parts @ x / parts.sum(axis=1))
    # Patterns without a part of its own (all flipped or none) count at every centre; of the others, so many may lie beyond an end.
    whole = 2 * len(flipped) - len(means)
    beyond = math.floor(ALPHA * len(flipped) + 1e-9) - whole
    return Interval(mean, float(means[beyond]), float(means[-1 - beyond]))


def seeds_needed(d: Sequence[float] | np.ndarray, num_pairs: int) -> int | None:
    """Seeds at which the observed difference and spread would be found with 80 % power after Holm's correction.

    n = ((z_{1 - alpha/2m} + z_{0.8}) sd / mean)^2 for paired normal differences, never below what the exact test needs, and
    more than were run: those did not suffice.
    None where the differences are all zero or not all finite: no number of seeds follows from them.
    """
    d = np.asarray(d, float)
    if len(d) < 2 or not np.isfinite(d).all() or d.mean() == 0:
        return None
    floor = math.ceil(1 + math.log2(num_pairs / ALPHA))
    z = stats.norm.ppf(1 - ALPHA / (2 * num_pairs)) + stats.norm.ppf(POWER)
    return max(floor, len(d) + 1, math.ceil((z * d.std(ddof=1) / d.mean()) ** 2))
