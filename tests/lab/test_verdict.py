"""The verdict from made-up results: an edge that could turn it round withholds it, a real failure does not, few seeds claim nothing."""

import json
import math
import statistics

import pytest

from fallline.core.space import log
from fallline.lab.comparison import comparisons
from fallline.lab.design import edges, widenings
from fallline.lab.verdict import verdict, what_would_change

SPACE = log(1e-4, 1e-1)
POINTS = [0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95]  # of the unit cube
INITIAL = 10.0
TRUSTED = {"trusted": True, "why": ""}


def method(name, trials, shift=0.0, seeds=7, lost=0):
    """``trials``: finals at POINTS (None: diverged). Its fresh seeds scatter around its best trial plus ``shift``."""
    best = min((x, i) for i, x in enumerate(trials) if x is not None)[1]
    rates = [SPACE.at(u) for u in POINTS]
    tried = [{"lr": lr} for lr in rates]
    found = [
        {
            "name": e.name,
            "side": e.side,
            "value": e.value,
            "range": str(SPACE),
            "widen": f"--space {name}.lr={e.widened}",
        }
        for e in edges({"lr": SPACE}, tried, tried[best])
    ]
    finals = [trials[best] + shift + 0.01 * math.sin(7 * k + len(name)) for k in range(seeds)]
    finals = [None] * lost + finals[lost:]
    done = [x for x in finals if x is not None]
    return {
        "name": name,
        "tuned": ["lr"],
        "space": {"lr": str(SPACE)},
        "trials": [
            {"run": f"{name}{i}", "unit": [u], "final": x} for i, (u, x) in enumerate(zip(POINTS, trials, strict=True))
        ],
        "best": {"run": f"{name}{best}", "hyper": tried[best], "edges": found},
        "runs": [{"final": x} for x in finals],
        "final": {
            "mean": None if lost else statistics.fmean(done),
            "median": statistics.median(done) if done else None,
            "low": None,
            "high": None,
            "n": seeds,
            "diverged": lost,
        },
        "to_target": {"reached": 0, "of": seeds, "steps": None, "ratio_to_adamw": {"steps": None}},
    }


def judge(*methods, seeds=7, exploratory=False, data=(), clock=TRUSTED, missing=0):
    task = {
        "name": "t",
        "metric": {"name": "loss", "unit": "", "minimize": True},
        "target": 0.0,
        "steps": 100,
        "initial": INITIAL,
        "data": list(data),
        "methods": methods,
        "exploratory": exploratory,
    }
    task["comparisons"] = comparisons(task, methods, "fallline compare t")
    task["verdict"] = verdict(task, seeds, "fallline compare t")
    task["changes"] = what_would_change(task, seeds, missing, "fallline resume f", clock)
    return task


GOOD = method("adamw", [6, 4, 2, 1, 2, 4, None])
FALLING = [9, 8, 7, 6, 5, 4, 3]


def test_an_inner_best_that_is_worse_is_worse():
    t = judge(GOOD, method("lion", [6, 5, 4, 3, 4, 5, 6]))
    assert t["verdict"]["kind"] == "winner"
    assert t["comparisons"][0]["better"] == "adamw"
    assert t["comparisons"][0]["withheld"] is None
    assert t["changes"] == []


@pytest.mark.parametrize(("trials", "side"), [(FALLING, "high"), (FALLING[::-1], "low")])
def test_a_curve_that_falls_towards_the_edge_withholds_the_verdict(trials, side):
    t = judge(GOOD, method("lion", trials))
    (c,) = t["comparisons"]
    assert c["p_holm"] <= 0.05
    assert not c["told_apart"]
    assert c["better"] is None
    assert c["withheld"]["side"] == side
    assert c["text"].startswith("Cannot tell yet whether adamw is better than lion")
    assert f"fallline compare t {c['withheld']['widen']} --out" in c["text"]
    assert t["verdict"]["kind"] == "cannot tell"
    assert "cannot tell yet" in t["verdict"]["sentences"][0]
    assert any("could close its difference" in text for text in t["changes"])


def test_a_curve_that_is_flat_at_the_edge_and_far_behind_is_a_failure():
    t = judge(GOOD, method("lion", [7.5, 6, 5.4, 5.2, 5.1, 5.05, 5.0]))
    assert t["comparisons"][0]["told_apart"]
    assert t["verdict"]["kind"] == "winner"
    (warning,) = t["verdict"]["warnings"]
    assert "too flat to close the difference" in warning


def test_divergence_beyond_the_best_is_no_edge():
    t = judge(GOOD, method("sgd", [9.9, 9.8, 9.7, 9.6, 9.5, None, None]))
    assert t["comparisons"][0]["told_apart"]
    assert t["verdict"]["warnings"] == []


def test_a_method_that_has_hardly_trained_at_its_highest_rate_is_cut_off():
    t = judge(GOOD, method("sgd", [9.99, 9.98, 9.97, 9.96, 9.95, 9.94, 9.93]))
    assert t["comparisons"][0]["withheld"]
    t = judge(GOOD, method("sgd", [9.93, 9.94, 9.95, 9.96, 9.97, 9.98, 9.99]))
    assert t["comparisons"][0]["told_apart"], "smaller steps than these train even less"


def test_the_edge_of_the_better_one_takes_nothing_away():
    t = judge(method("adamw", [4, 5, 6, 4, 3, 2, 1]), method("lion", [6, 5, 4, 3, 4, 5, 6]))
    assert t["verdict"]["kind"] == "winner"
    assert "a better one may lie beyond" in t["verdict"]["warnings"][0]
    assert any("may find a better setting" in text for text in t["changes"])


def test_seeds_that_diverge_at_the_lowest_rate_could_be_cured_at_the_highest_not():
    low = judge(GOOD, method("lion", [1, 2, 3, 4, 5, 6, 7], lost=7))
    assert low["comparisons"][0]["withheld"]
    high = judge(GOOD, method("lion", [7, 6, 5, 4, 3, 2, 1], lost=7))
    assert high["comparisons"][0]["told_apart"]


def test_part_of_the_field_may_be_judged():
    three = [
        method(n, x, seeds=9)
        for n, x in (("adamw", [6, 4, 2, 1, 2, 4, 6]), ("lion", [6, 5, 4, 3, 4, 5, 6]), ("sgd", FALLING))
    ]
    t = judge(*three, seeds=9)
    assert t["verdict"]["kind"] == "open"
    assert (t["verdict"]["best"], t["verdict"]["open"]) == (["adamw"], ["sgd"])
    assert "sgd cannot be judged yet" in t["verdict"]["sentences"][0]
    assert "lion is worse" in t["verdict"]["sentences"][0]


@pytest.mark.parametrize("seeds", [1, 2, 3, 4, 5])
def test_few_seeds_claim_nothing_however_large_the_difference(seeds):
    names = ("adamw", "lion", "sgd")
    t = judge(
        *(method(n, [9, 8, 5, 1, 5, 8, 9], shift=1000 * k, seeds=seeds) for k, n in enumerate(names)), seeds=seeds
    )
    assert not any(c["told_apart"] for c in t["comparisons"])
    assert t["verdict"]["kind"] == "cannot tell"
    words = json.dumps([t["verdict"], [c["text"] for c in t["comparisons"]], t["changes"]])
    for claim in ("significan", "is better than", "are worse", "is worse", "use adamw"):
        assert claim not in words
    assert "cannot prove" in words


def test_what_would_change_is_told_in_full():
    made = {"name": "digits", "synthetic": True}
    clock = {"trusted": False, "why": "The machine was contended."}
    close = method("lion", [6, 4, 2, 1, 2, 4, 6], shift=0.001)
    t = judge(GOOD, close, data=[made], clock=clock, exploratory=True, missing=3)
    text = " ".join(t["changes"])
    for part in (
        "3 runs of this task are missing",
        "random data took its place",
        "--prune",
        "seeds would tell",
        "contended",
    ):
        assert part in text
    assert t["verdict"]["sentences"][0].startswith("Exploratory")


def test_an_interval_that_excludes_zero_without_a_verdict_is_explained():
    rows = [method(name, [6, 4, 2, 1, 2, 4, 6]) for name in ("adamw", "lion", "sgd")]
    for m, finals in zip(rows, ([1.0] * 7, [2, 3, 4, 2, 3, 4, 0.9], [2, 0, 4, 0, 3, 0, 0.9]), strict=True):
        m["runs"] = [{"final": float(x)} for x in finals]
    t = judge(*rows)
    odd = [c for c in t["comparisons"] if c["p"] <= 0.05 and not c["told_apart"]]
    assert odd
    assert all("by itself their interval excludes zero" in c["text"] for c in odd)


def test_distances_are_measured_in_steps_of_widening():
    assert widenings(SPACE, 0.5) == pytest.approx(1.5)
    assert widenings(SPACE.parse("one_minus_log 0.9..0.99"), 1.0) == pytest.approx(1)
    assert widenings(SPACE.parse("linear 0..5"), 0.3) == 0.3
