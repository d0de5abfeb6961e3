"""The verdict in the terminal."""

import copy
import io

from rich.console import Console

from fallline.report import render
from fallline.report.terminal import print_results
from report.samples import CASES


def printed(name):
    out = Console(file=io.StringIO(), width=140, no_color=True)
    print_results(CASES[name], out)
    return out.file.getvalue()


def test_a_suite_ends_with_the_verdict_over_all_tasks():
    text = printed("suite")
    ranking = CASES["suite"]["ranking"]
    assert f"Over 3 tasks {ranking['order'][0]} comes first" in text.partition("\nall 3 tasks\n")[2]
    assert "all 1 tasks" not in printed("exploratory")


def test_times_are_left_out_where_the_clock_is_not_trusted():
    assert "optimizer ms" in printed("suite")
    text = printed("two tasks, a clock that is not trusted")
    assert "optimizer ms" not in text
    assert text.rstrip().endswith("Times are left out. load 7.9 on 2 cores.")


def test_what_cannot_be_judged_yet_has_a_mark_of_its_own():
    results = copy.deepcopy(CASES["suite"])
    task = results["tasks"][0]
    best, other = (
        task["verdict"]["best"][0],
        next(m["name"] for m in task["methods"] if m["name"] != task["verdict"]["best"][0]),
    )
    task["verdict"] |= {"kind": "open", "best": [best], "open": [other]}
    out = Console(file=io.StringIO(), width=140, no_color=True)
    print_results(results, out)
    names = [line.split("  ")[0].strip() for line in out.file.getvalue().splitlines()]
    assert f"{best} *" in names
    assert f"{other} ?" in names
    page = render(results)
    assert "one leads while others cannot be judged yet on 1" in page
    assert page.count('class="open"') == 2  # at a glance and in the task's own table
