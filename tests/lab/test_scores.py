"""Scores against published numbers, hand-computed ones, and what they promise about other methods."""

import csv
import io
import math

import numpy as np
import pytest

from fallline.lab import scores
from fallline.lab.scores import algoperf, algoperf_rules, anchored, order, profile, ranking

INF = math.inf

# AlgoPerf v0.5, external tuning and self-tuning: seconds to the target. "~" marks held-out variants, blank was not run.
PUBLISHED = """\
submission,criteo,criteo~ei,fastmri,fastmri~tanh,resnet,resnet~bn,vit,conf,conf~ln,ds,ogbg,ogbg~ms,wmt,wmt~gt,trapezoid,exact
shampoo,5042.7,246.4,1321.3,1949.3,inf,58545.6,33094.0,47444.8,41695.4,34623.6,3362.6,3601.3,38656.1,11814.5,0.7784,0.7785
schedule_free_adamw,5163.9,365.8,1162.2,3604.4,inf,inf,44005.2,56121.4,34536.3,43256.4,5275.2,11242.1,16012.7,5946.8,0.7077,0.7062
generalized_adam,6402.9,383.8,1580.7,3427.5,61256.9,55656.5,64739.5,inf,50467.4,37495.6,5784.8,11785.5,30284.1,16002.9,0.6383,0.6370
cyclic_lr,5163.5,605.6,2200.4,3866.2,inf,inf,62445.3,57566.1,56128.7,38985.6,6947.5,9334.7,23562.4,16857.1,0.6301,0.6289
nadamp,6162.5,502.2,1979.7,4300.4,inf,56674.0,68105.4,57675.3,51916.1,33171.1,7944.5,13705.7,38683.9,22725.2,0.5909,0.5899
baseline,7208.4,610.7,2030.4,4508.6,inf,59225.2,70196.8,54769.4,50447.0,36023.8,7696.5,12498.3,41188.8,16832.5,0.5707,0.5693
amos,inf,inf,2940.6,4303.9,inf,34759.9,50496.2,43293.0,34652.5,31735.3,11070.9,16355.9,32832.6,17722.2,0.4918,0.4915
caspr_adaptive,,,1119.3,1359.5,inf,inf,44673.0,inf,36123.7,41824.5,2191.7,2194.6,32044.8,,0.4722,0.4722
lawa_queue,inf,1053.2,1970.5,4862.7,inf,inf,51188.6,inf,inf,inf,4616.6,4463.9,27170.6,10521.4,0.3699,0.3704
lawa_ema,5302.9,719.3,2556.1,5026.6,inf,inf,61885.6,inf,inf,inf,10596.7,13558.0,43033.9,18908.3,0.3384,0.3378
schedule_free_prodigy,,,1881.2,5777.2,inf,inf,inf,inf,inf,inf,11243.2,inf,inf,19390.1,0.0,0.0
"""


def published():
    """(times, variants, official scores, exact scores)."""
    rows = list(csv.DictReader(io.StringIO(PUBLISHED)))
    columns = [c for c in rows[0] if c not in ("submission", "trapezoid", "exact")]
    times = {r["submission"]: {c: float(r[c]) for c in columns if r[c]} for r in rows}
    variants = {c: c.partition("~")[0] for c in columns if "~" in c}
    official, exact = ({r["submission"]: float(r[kind]) for r in rows} for kind in ("trapezoid", "exact"))
    return times, variants, official, exact


def test_algoperf_v05_is_reproduced_to_the_fourth_digit():
    times, variants, official, exact = published()
    table = algoperf_rules(times, variants)
    assert len(next(iter(table.values()))) == 8
    assert algoperf(table, points=100) == pytest.approx(official, abs=6e-5)
    assert algoperf(table) == pytest.approx(exact, abs=6e-5)
    assert order(algoperf(table))[0] == "shampoo"


def test_the_winner_of_algoperf_v05_depends_on_who_came_eighth():
    times, variants, *_ = published()
    fewer = algoperf_rules({m: row for m, row in times.items() if m != "caspr_adaptive"}, variants)
    found = algoperf(fewer)
    assert order(found)[:2] == ["schedule_free_adamw", "shampoo"]
    assert (found["schedule_free_adamw"], found["shampoo"]) == pytest.approx((0.811, 0.802), abs=2e-3)
    table = algoperf_rules(times, variants)
    assert order(algoperf({m: {t: x for t, x in r.items() if t != "ogbg"} for m, r in table.items()}))[0] != "shampoo"


A, B, C = (dict(zip("wxyz", row, strict=True)) for row in ((10, 10, 10, 40), (16, 16, 16, 12), (4, 4, 4, 50)))
BUDGETS = dict.fromkeys("wxyz", 100.0)


def test_a_third_method_turns_algoperf_round_and_leaves_the_anchored_score_alone():
    two, three = algoperf({"a": A, "b": B}), algoperf({"a": A, "b": B, "c": C})
    assert (two["a"], two["b"]) == pytest.approx(((3 + (4 - 40 / 12) / 3) / 4, (3 * 2.4 / 3 + 1) / 4))
    assert two["b"] > two["a"]
    assert three["a"] > three["b"]
    alone, among = anchored({"a": A, "b": B}, "a", BUDGETS), anchored({"a": A, "b": B, "c": C}, "a", BUDGETS)
    assert alone == {m: among[m] for m in alone}


def test_the_anchored_score_by_hand():
    times = {"adamw": {"w": 20, "x": INF}, "fast": {"w": 10, "x": 50}, "late": {"w": INF, "x": INF}}
    found = anchored(times, "adamw", {"w": 40, "x": 100})
    assert found["adamw"] == 1.0
    assert found["fast"] == pytest.approx(math.sqrt(2 * (200 / 50)))
    assert found["late"] == pytest.approx(math.sqrt(20 / 80))  # both miss x: a draw there


def test_profiles_are_the_shares_within_a_factor():
    found = profile({"a": {"w": 1, "x": 4, "y": INF}, "b": {"w": 2, "x": 2, "y": INF}})
    assert found["a"] == [(1.0, 1 / 3), (2.0, 2 / 3)]
    assert found["b"] == [(1.0, 1 / 3), (2.0, 2 / 3)]


def test_the_closed_form_is_the_integral_of_the_profile():
    rng = np.random.default_rng(0)
    times = {m: {t: x if x < 5 else INF for t, x in enumerate(rng.uniform(1, 6, 7))} for m in "abcd"}
    fine = algoperf(times, points=100_001)
    assert algoperf(times) == pytest.approx(fine, abs=1e-4)
    for m, points in profile(times).items():
        ends = [tau for tau, _ in points[1:]] + [4.0]
        area = sum(rho * max(0.0, min(end, 4.0) - min(tau, 4.0)) for (tau, rho), end in zip(points, ends, strict=True))
        assert area / 3 == pytest.approx(algoperf(times)[m])


def seeds(*rows):
    return {
        m: {t: [x * f for f in (0.98, 1.0, 1.02)] for t, x in row.items()} for m, row in zip("abc", rows, strict=False)
    }


def test_a_ranking_says_what_would_change_it():
    found = ranking(seeds(A, B, C), "a", BUDGETS, resamples=500)
    assert found["scores"]["a"]["anchored"] == {"estimate": 1.0, "low": 1.0, "high": 1.0}
    assert found["order"][0] == "c"
    assert found["order_algoperf"][0] == "c"
    assert found["without_method"]["c"] == ["b", "a"]
    assert set(found["without_task"]) == set("wxyz")
    assert sum(found["p_best"].values()) == pytest.approx(1)
    for row in found["scores"].values():
        assert row["anchored"]["low"] <= row["anchored"]["estimate"] <= row["anchored"]["high"]
    assert found == ranking(seeds(A, B, C), "a", BUDGETS, resamples=500)


def test_flips_are_told():
    early = {"w": 9, "x": 200}
    found = ranking(seeds({"w": 20, "x": 20}, early), "a", {"w": 400, "x": 400}, resamples=50)
    assert found["order"][0] == "a"
    assert any("Without the task x, b comes first" in text for text in found["flips"])
    third = ranking(seeds({"w": 10, "x": 10, "y": 10, "z": 39}, B, {**C, "w": 4}), "a", BUDGETS, resamples=50)
    assert not any("Without the task" in text for text in third["flips"])
    harsh = ranking(seeds({"w": 30, "x": 90}, {"w": 10, "x": INF}), "a", {"w": 100, "x": 100}, resamples=50)
    assert harsh["order"][0] == "b"
    assert any("counted 4 budgets" in text for text in harsh["flips"])


def test_intervals_widen_with_the_spread_over_tasks():
    tight = ranking(seeds(A, {t: x / 2 for t, x in A.items()}), "a", BUDGETS, resamples=500)["scores"]["b"]["anchored"]
    loose = ranking(seeds(A, B), "a", BUDGETS, resamples=500)["scores"]["b"]["anchored"]
    assert tight["estimate"] == pytest.approx(2)
    assert math.log(tight["high"] / tight["low"]) < 0.2 < math.log(loose["high"] / loose["low"])


def test_a_median_needs_more_than_half_of_the_seeds():
    found = ranking({"a": {"t": [1, 1]}, "b": {"t": [1, INF]}}, "a", {"t": 10}, resamples=10)
    assert found["scores"]["b"]["anchored"]["estimate"] == pytest.approx(1 / 20)
    assert scores.MISS == 2
