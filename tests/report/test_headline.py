"""The verdict over a whole study, in three sentences."""

import pytest

from fallline.report.headline import headline, marks
from fallline.report.schema import check
from report.samples import CASES, copy, suite


def said(results):
    return headline(check(results))


@pytest.mark.parametrize("name", CASES)
def test_there_are_three_sentences(name):
    sentences = said(CASES[name])
    assert len(sentences) == 3
    assert all(s.endswith(".") for s in sentences)


def test_over_several_tasks_the_first_names_the_winner_with_its_interval():
    results = suite(3, methods="adamw nesterov lion")
    ranking = results["ranking"]
    ranking |= {"order": ["lion", "adamw", "nesterov"], "flips": []}
    ranking["scores"]["lion"]["anchored"] = {"estimate": 1.96, "low": 1.57, "high": 2.55}
    ranking["p_best"]["lion"] = 0.81
    first, _, third = said(results)
    assert first == (
        "Over 3 tasks lion comes first, 1.96 times as fast to the target as tuned adamw (95 % interval 1.57 to 2.55), with a "
        "probability of 0.81 of being the best."
    )
    assert third.startswith("No task, method or rule left out or changed puts another method first")
    ranking["flips"] = ["Without the task a, adamw comes first, not lion."] * 2
    assert said(results)[2].startswith(
        "The order is not stable: each of 2 changes would put another method first (see Ranking)"
    )


def test_without_a_ranking_it_counts_on_how_many_tasks_a_method_leads():
    results = copy("demo")
    for t, kind in zip(results["tasks"], ("winner", "cannot tell"), strict=True):
        t["verdict"] |= {"kind": kind, "best": ["adamw"] if kind == "winner" else ["adamw", "lion"]}
    assert said(results)[0] == "adamw is best, or not told apart from the best, on 1 of 2 tasks."
    for t in results["tasks"]:
        t["verdict"] |= {"kind": "cannot tell", "best": ["adamw", "lion"]}
    assert said(results)[:2] == [
        "On none of 2 tasks can the methods be told apart.",
        "Task by task, of 2: the methods cannot be told apart on 2.",
    ]


def test_of_one_task_the_third_says_what_weakens_the_verdict():
    results = suite(1, methods="adamw nesterov lion")
    assert said(results)[2].startswith("Nothing that was checked weakens this: equal budget, ")
    assert "What weakens this: fresh seeds: 1: too few" in said(suite(1, methods="adamw nesterov", num_seeds=1))[2]


def test_a_study_that_is_not_finished_says_so_and_is_marked():
    results = check(CASES["unfinished"])
    assert headline(results)[2].startswith("Nothing of this is final: ")
    assert marks(results) == "unfinished"
    assert marks(check(CASES["exploratory"])) == "exploratory"
    assert marks(check(CASES["demo"])) == ""
