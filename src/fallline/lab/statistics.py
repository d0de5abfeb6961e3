"""Paired statistics over seeds: exact sign-flip tests, bootstrap intervals, Holm's correction, and what n can show.

Spread differs up to sixty-fold between optimizers on one task, so nothing here assumes equal variances or normality: seeds
are paired (same initial weights, same batches), and only the differences matter.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

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
    place, with the infinite ones ranked highest. Beyond 16 seeds, 2^16 patterns from a fixed stream stand in for all.
    """
    x = np.asarray(d, float)
    if not np.isfinite(x).all():
        x = np.sign(x) * stats.rankdata(np.abs(x)) * (x != 0)
    n = len(x)
    if n <= _EXACT_UP_TO:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = np.random.default_rng(0).choice([-1, 1], size=(2**_EXACT_UP_TO, n))
        signs[0] = 1  # the pattern observed is one of those counted
    observed = abs(x.sum())
    return float((np.abs(signs @ x) >= observed * (1 - 1e-12)).mean())


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
    """The mean with its BCa bootstrap interval (Efron 1987; 9,999 resamples, fixed stream); None unless all are finite.

    A single value, or equal values, give an interval of no length.
    """
    x = np.asarray(x, float)
    if len(x) == 0 or not np.isfinite(x).all():
        return None
    mean = float(x.mean())
    if len(x) == 1 or np.ptp(x) <= 1e-12 * max(1e-300, abs(mean)):
        return Interval(mean, mean, mean)
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a degenerate acceleration is caught by the check for NaN below
        ci = stats.bootstrap((x,), np.mean, n_resamples=9999, method="BCa", rng=rng).confidence_interval
        if not (math.isfinite(ci.low) and math.isfinite(ci.high)):
            ci = stats.bootstrap((x,), np.mean, n_resamples=9999, method="percentile", rng=rng).confidence_interval
    return Interval(mean, float(ci.low), float(ci.high))


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
