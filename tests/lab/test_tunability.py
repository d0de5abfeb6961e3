"""Tunability against enumeration and hand-computed basins."""

import itertools
import math
import statistics

import pytest

from fallline.lab.tunability import basin, best_of

COSTS = [3.0, 1.0, 4.0, 1.5, 9.0]


def test_the_expected_best_is_the_mean_over_all_subsets():
    kind, curve = best_of(COSTS)
    assert kind == "mean"
    for k, value in curve:
        assert value == pytest.approx(statistics.fmean(min(s) for s in itertools.combinations(COSTS, k)))
    assert [k for k, _ in curve] == [1, 2, 3, 4, 5]


def test_with_divergence_the_curve_is_the_median_over_all_subsets():
    costs = [*COSTS, math.inf, math.inf, math.inf, math.inf, math.inf, math.inf]
    kind, curve = best_of(costs)
    assert kind == "median"
    found = dict(curve)
    for k in range(1, len(costs) + 1):
        middle = statistics.median_low(min(s) for s in itertools.combinations(costs, k))
        assert found.get(k, math.inf) == middle
    assert 1 not in found, "more than half of the trials diverged"


def test_the_curve_never_rises():
    for costs in (COSTS, [*COSTS, math.inf]):
        values = [value for _, value in best_of(costs)[1]]
        assert values == sorted(values, reverse=True)


def test_a_basin_by_hand():
    # Best 1, initial 11: the bound is 1.5. From 0.01 to 0.1 the cost goes from 1 to 2, so it is met half a decade on.
    found = basin([1e-4, 1e-3, 1e-2, 1e-1], [11, 1.25, 1, 2], 11.0)
    assert found["high"] == pytest.approx(10**-1.5)
    assert found["low"] == pytest.approx(1e-3 * 10 ** -(0.25 / 9.75))
    assert found["decades"] == pytest.approx(1.5 + 0.25 / 9.75)
    assert not found["at_least"]


def test_a_basin_that_touches_an_edge_is_at_least_so_wide():
    assert basin([1e-3, 1e-2, 1e-1], [5, 1, 1.2], 11.0)["at_least"]
    assert basin([1e-3, 1e-2, 1e-1], [1.1, 1, 5], 11.0)["at_least"]


def test_a_basin_ends_at_the_last_rate_before_divergence():
    assert basin([1e-3, 1e-2, 1e-1], [5, 1, math.inf], 11.0)["high"] == 1e-2


def test_a_second_valley_counts_only_where_other_hyperparameters_vary():
    rates, costs = [1e-4, 1e-3, 1e-2, 1e-1, 1.0], [9, 1, 8, 1.1, 8]
    assert basin(rates, costs, 11.0)["high"] < 1e-2
    assert (basin(rates, costs, 11.0, alone=False)["low"], basin(rates, costs, 11.0, alone=False)["high"]) == (
        1e-3,
        0.1,
    )


def test_without_learning_there_is_no_basin():
    assert basin([1e-3, 1e-2], [12, 13], 11.0) is None
    assert basin([1e-3, 1e-2], [math.inf, math.inf], 11.0) is None
    assert basin([1e-3, 1e-2], [1, 2], None) is None
