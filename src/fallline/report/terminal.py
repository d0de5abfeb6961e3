"""The verdict and the table in the terminal; plain lines of text where output is not one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fallline.report import words
from fallline.report.forest import ranked
from fallline.report.headline import headline
from fallline.report.schema import Method, Task, check

__all__ = ["print_results"]

COLOURS = {"winner": "green", "group": "cyan", "open": "cyan", "cannot tell": "yellow"}


def print_results(results: Mapping[str, Any], console: Console) -> None:
    """Print each task's verdict, warnings and table; * marks the best and those not told apart from it, ? those that
    cannot be judged yet.

    Raises FalllineError where ``results`` has another schema or is malformed.
    """
    checked = check(results)
    seconds = checked.clock is None or checked.clock.trusted
    for task in checked.tasks:
        console.print()
        console.print(Text(task.name, style="bold"), Text(f"({task.verdict.kind})", style=COLOURS[task.verdict.kind]))
        for sentence in task.verdict.sentences:
            _say(console, sentence)
        for warning in task.verdict.warnings:
            _say(console, f"warning: {warning}", "red")
        console.print(_table(task, console.is_terminal, seconds))
    if len(checked.tasks) > 1:
        console.print()
        console.print(Text(f"all {len(checked.tasks)} tasks", style="bold"))
        for sentence in headline(checked):
            _say(console, sentence)
    if checked.clock is not None and not seconds:
        console.print()
        _say(console, f"Times are left out. {checked.clock.why}")


def _say(console: Console, sentence: str, style: str = "") -> None:
    """A sentence, wrapped on a terminal and on one line elsewhere, where another program may read it."""
    console.print(Text(sentence, style=style), soft_wrap=not console.is_terminal, highlight=False)


def _table(task: Task, styled: bool, seconds: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD if styled else None, pad_edge=False)
    metric = task.metric.name + (f" [{task.metric.unit}]" if task.metric.unit else "")
    columns = [
        "method",
        f"final {metric}",
        "95 % interval",
        "reached",
        "steps to target",
        *(["optimizer ms"] if seconds else []),
        "best setting",
    ]
    for name in columns:
        kind = "left" if name in ("method", "best setting") else "right"
        table.add_column(Text(name), justify=kind, no_wrap=name == "method", overflow="fold")  # type: ignore[arg-type]
    for m in ranked(task):
        style = "bold" if m.name in task.verdict.best else ""
        table.add_row(*(Text(cell, style=style) for cell in _cells(task, m, seconds)))
    return table


def _cells(task: Task, m: Method, seconds: bool) -> list[str]:
    name = m.name + (" *" if m.name in task.verdict.best else " ?" if m.name in task.verdict.open else "")
    best = words.hypers(m.best.hyper) if m.best else words.ABSENT
    if m.best and m.best.edges:
        best += " (edge)"
    cost = [words.number(m.cost.optimizer_ms, 2) if m.cost else words.ABSENT] if seconds else []
    if m.final is None or not m.runs:
        lost = bool(m.trials) and all(t.status == "diverged" for t in m.trials)
        return [name, "diverged" if lost else "not run yet", *[words.ABSENT] * 3, *cost, best]
    mean, low, high = words.interval(m.final.mean, m.final.low, m.final.high)
    middle = f"{m.final.diverged} of {m.final.n} diverged" if m.final.mean is None else mean
    spread = words.ABSENT if m.final.low is None else f"{low} to {high}"
    hit = m.to_target
    reached = words.ABSENT if hit is None else f"{hit.reached}/{hit.of}"
    steps = "never" if hit is None or hit.steps is None else words.brief(hit.steps.median, 4)
    return [name, middle, spread, reached, steps, *cost, best]
