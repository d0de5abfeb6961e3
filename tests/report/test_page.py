"""The page keeps its promises for every kind of study: complete, exact, self-contained, the same bytes each time."""

import re
from decimal import Decimal
from functools import lru_cache

import pytest

from fallline.report import render
from report.html import Page
from report.samples import CASES, copy

pytestmark = pytest.mark.parametrize("name", CASES)


@lru_cache
def html(name):
    return render(CASES[name])


@lru_cache
def page(name):
    return Page(html(name))  # raises where tags do not balance


def test_same_results_give_the_same_bytes(name):
    assert render(copy(name)) == html(name)


def test_nothing_is_fetched_and_nothing_runs(name):
    tags = page(name).tags
    assert {"script", "link", "iframe", "object", "embed", "img", "base", "form"}.isdisjoint(t for t, _ in tags)
    assert not [k for _, attributes in tags for k in attributes if k.startswith("on") or k in ("src", "srcset")]
    assert all(v.startswith("#") for _, attributes in tags for k, v in attributes.items() if k.endswith("href"))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html(name)))
    assert "@import" not in html(name)
    assert "://" not in html(name)
    policy = next(a["content"] for _, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")


def test_ids_are_unique_and_references_resolve(name):
    ids = [a["id"] for _, a in page(name).tags if "id" in a]
    assert len(ids) == len(set(ids))
    used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)|aria-labelledby="([^"]+)"', html(name))
    assert {one for match in used for one in match if one} <= set(ids)


def test_no_missing_value_leaks(name):
    words = " ".join([*page(name).text, *(v for _, a in page(name).tags for v in a.values())])
    assert not re.findall(r"\b(nan|NaN|None|inf|Infinity|undefined|True)\b", words)


def test_every_figure_speaks_and_has_its_values_in_a_table(name):
    figures = [a for tag, a in page(name).tags if tag == "svg"]
    assert all(a["role"] == "img" and a["aria-label"].endswith(".") for a in figures)
    large = [task for t in CASES[name]["tasks"] if any(m["runs"] for m in t["methods"]) for task in (t, t)]
    assert html(name).count("Values of this figure") == len(large)  # forest and curves
    assert html(name).count("<summary>All trials</summary>") == len(CASES[name]["tasks"])


def test_texts_of_numbers_round_their_values(name):
    for value, text in page(name).data:
        plain = text.replace("−", "-").replace("\u2009", "").replace("<", "")
        unit = 10.0 ** Decimal(plain).as_tuple().exponent
        assert abs(float(plain) - value) <= 0.501 * unit + (text.startswith("<")) * 0.001, (value, text)


def test_results_table_holds_the_results(name):
    for task, rows in zip(CASES[name]["tasks"], page(name).rows("results"), strict=True):
        methods = {m["name"]: m for m in task["methods"]}
        assert len(rows) == len(methods)
        for row in rows:
            m = methods[row[0].text.split()[0].partition("★")[0].partition("arXiv")[0].partition("Suts")[0]]
            if not m["runs"]:
                continue
            final, hit = m["final"], m["to_target"]
            mean = [final["mean"], final["low"], final["high"]] if final["mean"] is not None else []
            assert row[1].values == mean
            assert row[2].values == [final["median"]]
            assert row[3].values == [hit["reached"], hit["of"]]
            for cell, key in ((row[4], "steps"), (row[5], "seconds")):
                ratio = hit["ratio_to_adamw"][key] if m["name"] != "adamw" else None
                expected = [*(hit[key] or {}).values(), *(ratio or {}).values()]
                assert cell.values == [x for x in expected if x is not None]
            assert ("★" in row[0].text) == (m["name"] in task["verdict"]["best"])


def test_comparison_table_holds_the_comparisons(name):
    expected = [task["comparisons"] for task in CASES[name]["tasks"] if task["comparisons"]]
    for comparisons, rows in zip(expected, page(name).rows("comparisons") if expected else [], strict=True):
        for c, row in zip(comparisons, rows, strict=True):
            assert row[0].text == f"{c['a']} − {c['b']}"
            assert row[1].values == list((c["difference"] or {}).values())
            assert row[2].values == c["wins"]
            assert [row[3].values, row[4].values, row[5].values] == [[c["p"]], [c["p_holm"]], [c["smallest_p"]]]
            assert row[6].text == (f"yes: {c['better']}" if c["told_apart"] else "no")
            assert row[7].values == [c["seeds_needed"]] * (c["seeds_needed"] is not None)
            assert row[8].text == c["text"]


def test_every_run_stands_with_its_value_and_command(name):
    runs = [r for t in CASES[name]["tasks"] for m in t["methods"] for r in (*m["trials"], *m["runs"])]
    rows = [row for table in page(name).rows("runs") for row in table]
    shown = {row[0].text: (row[2].values, row[3].text) for row in rows}
    assert shown == {r["run"]: ([r["final"]] * (r["final"] is not None), r["command"]) for r in runs}


def test_trials_and_cost_tables_hold_their_numbers(name):
    for task, trials, cost in zip(
        CASES[name]["tasks"], page(name).rows("trials"), page(name).rows("cost"), strict=True
    ):
        expected = [[t["final"]] * (t["final"] is not None) for m in task["methods"] for t in m["trials"]]
        assert [row[3].values for row in trials] == expected
        costs = {tuple(row[i].values[0] for i in (1, 2, 4)) for row in cost if row[1].numbers}
        assert costs == {tuple(m["cost"].values()) for m in task["methods"] if m["cost"]["step_ms"] is not None}


def test_verdict_says_what_the_study_said(name):
    text = "\n".join(page(name).text)
    for task in CASES[name]["tasks"]:
        for sentence in (*task["verdict"]["sentences"], *task["verdict"]["warnings"]):
            assert sentence in text
    for command in (CASES[name]["study"]["command"], CASES[name]["study"]["resume"]):
        assert command in text


def test_the_word_significant_is_never_ours(name):
    assert "significan" not in html(name).lower()


def test_page_is_small(name):
    assert len(html(name).encode()) < 600_000
