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
    large = [a for tag, a in page(name).tags if tag == "figure" and a.get("class") == "large"]
    assert html(name).count("Values of this figure") == len(large)
    assert len(large) >= 2 * sum(
        any(m["runs"] for m in t["methods"]) for t in CASES[name]["tasks"]
    )  # forest and curves
    assert html(name).count("<summary>All trials</summary>") == len(CASES[name]["tasks"])


def test_every_figure_says_how_many_seeds_and_which_command_made_it(name):
    made = re.findall(r'<span class="made">(.*?)</span>', html(name))
    large = [a for tag, a in page(name).tags if tag == "figure" and a.get("class") == "large"]
    assert len(made) == len(large)
    assert all(re.search(r"n = \d+( to \d+)? (seed|trial).*Made by <code>fallline compare ", text) for text in made)


def test_headings_are_in_order_and_tables_have_captions_and_scopes(name):
    levels = [int(tag[1]) for tag, _ in page(name).tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    tags = [tag for tag, _ in page(name).tags]
    assert all(tags[i + 1] == "caption" for i, tag in enumerate(tags) if tag == "table")
    assert all(a.get("scope") in ("col", "row", "colgroup") for tag, a in page(name).tags if tag == "th")
    assert {"header", "nav", "main"} <= set(tags)
    regions = [a for _, a in page(name).tags if a.get("role") == "region"]
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in regions)


def test_the_verdict_comes_first_in_three_sentences(name):
    first = html(name).partition('<div class="headline">')[2].partition("</div>")[0]
    assert len(re.findall("<p>", first)) == 3


def test_optional_parts_are_there_when_the_results_have_them_and_leave_no_trace_otherwise(name):
    case, tables = CASES[name], page(name).tables
    tasks = case["tasks"]
    assert ('id="ranking"' in html(name)) == ("ranking" in case)
    assert ("scores" in tables) == ("stability" in tables) == ("ranking" in case)
    assert len(tables.get("targets", [])) == len(tables.get("tunability", [])) == sum("targets" in t for t in tasks)
    assert html(name).count("What would change this verdict") == sum("what_would_change" in t for t in tasks)
    assert ("overview" in tables) == (len(tasks) > 1)
    mark = "unfinished" if not case["study"]["complete"] else "exploratory" if tasks[0].get("exploratory") else ""
    assert set(re.findall(r'<span class="mark">(\w+)</span>', html(name))) == ({mark} if mark else set())
    stamped = [svg for svg in re.findall(r"<svg.*?</svg>", html(name), re.DOTALL) if mark.upper() in svg]
    assert len(stamped) == html(name).count("<svg")


def test_seconds_are_hidden_where_the_clock_is_not_trusted(name):
    hidden = not CASES[name].get("clock", {"trusted": True})["trusted"]
    text = " ".join(page(name).text)
    assert ("CPU ms" in text) != hidden
    assert ("CPU seconds to target" in text) != hidden
    assert ("Cost against quality" in text) == (
        not hidden
        and any(sum(m["final"]["median"] is not None for m in t["methods"]) > 1 for t in CASES[name]["tasks"])
    )


def test_scores_and_order_stand_as_computed(name):
    ranking = CASES[name].get("ranking")
    if ranking is None:
        return
    (rows,) = page(name).rows("scores")
    assert [row[0].text for row in rows] == ranking["order"]
    for row in rows:
        score = ranking["scores"][row[0].text]
        assert row[1].values == list(score["anchored"].values())
        assert row[2].values == [ranking["p_best"][row[0].text]]
        assert [row[3].values, row[4].values] == [[score["algoperf"]], [score["algoperf_trapezoid"]]]
    assert all(flip in html(name) for flip in ranking["flips"])


def test_targets_and_tunability_tables_hold_their_numbers(name):
    for task, rows in zip(
        [t for t in CASES[name]["tasks"] if "targets" in t],
        page(name).rows("targets") if "targets" in page(name).tables else [],
        strict=True,
    ):
        methods = {m["name"]: m for m in task["methods"]}
        for row in rows[1:]:
            for k, hit in enumerate(methods[row[0].text]["to_targets"]):
                width = 3 if CASES[name]["clock"]["trusted"] else 2
                assert row[1 + width * k].values == [hit["reached"], hit["of"]]
                assert row[2 + width * k].values == [x for x in (hit["steps"] or {}).values() if x is not None]
    for task, rows in zip(
        [t for t in CASES[name]["tasks"] if "targets" in t],
        page(name).rows("tunability") if "targets" in page(name).tables else [],
        strict=True,
    ):
        methods = {m["name"]: m for m in task["methods"]}
        for row in rows[1:]:
            u = methods[row[0].text]["tunability"]
            assert row[1].values == ([u["basin"]["decades"]] if u["basin"] else [])
            assert row[3].values == ([u["default"]["final"]] if u["default"] else [])


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
            trusted = CASES[name].get("clock", {"trusted": True})["trusted"]
            for cell, key in [(row[4], "steps"), *([(row[5], "seconds")] if trusted else [])]:
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
        shown = {tuple(row[i].values[0] for i in (1, 2, 4)) for row in cost if len(row) == 6 and row[1].numbers}
        if CASES[name].get("clock", {"trusted": True})["trusted"]:
            assert shown == {tuple(m["cost"].values()) for m in task["methods"] if m["cost"]["step_ms"] is not None}
        else:
            assert {len(row) for row in cost} == {2}


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
