"""The verdict in the terminal."""

import io

from rich.console import Console

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
