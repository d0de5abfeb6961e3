"""Measure how often the 95 % interval of a mean holds the true one: the table of docs/protocol.md.

PYTHONPATH=src python tools/coverage.py --studies 10000
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from scipy import stats

from fallline.lab.statistics import interval_of_mean

SEEDS = (3, 5, 6, 7, 9, 10, 20)
NOISE = {
    "normal": (lambda rng, n: rng.normal(size=n), 0.0),
    "t, 3 degrees of freedom": (lambda rng, n: rng.standard_t(3, size=n), 0.0),
    "lognormal": (lambda rng, n: rng.lognormal(size=n), math.exp(0.5)),
    "difference of two lognormal": (lambda rng, n: np.subtract(*rng.lognormal(size=(2, n))), 0.0),
}


def ours(x: np.ndarray) -> tuple[float, float]:
    found = interval_of_mean(x)
    assert found is not None
    return found.low, found.high


def bca(x: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The bootstrap that was used before, for comparison."""
    found = stats.bootstrap((x,), np.mean, n_resamples=1999, confidence_level=level, rng=np.random.default_rng(0))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def expanded(x: np.ndarray) -> tuple[float, float]:
    """BCa at the expanded level of Hesterberg 2015 (arXiv:1411.5279)."""
    n = len(x)
    tail = stats.norm.cdf(-math.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1))
    return bca(x, 1 - 2 * tail)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=10_000)
    parser.add_argument(
        "--bootstrap", type=int, default=0, help="studies for the two bootstrap intervals, which are slow"
    )
    arguments = parser.parse_args()
    ways = [("", ours, arguments.studies)]
    ways += [(" (BCa)", bca, arguments.bootstrap), (" (expanded BCa)", expanded, arguments.bootstrap)]
    print("| noise | " + " | ".join(f"{n} seeds" for n in SEEDS) + " |")
    print("| --- |" + " ---: |" * len(SEEDS))
    for name, (draw, truth) in NOISE.items():
        for suffix, interval, studies in ways:
            if studies:
                row = [_coverage(draw, truth, n, interval, studies if n < 20 else studies // 5) for n in SEEDS]
                print(f"| {name}{suffix} | " + " | ".join(f"{100 * x:.1f}" for x in row) + " |", flush=True)


def _coverage(draw, truth, n, interval, studies) -> float:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(studies):
        low, high = interval(draw(rng, n))
        held += low <= truth <= high
    return held / studies


if __name__ == "__main__":
    main()
