"""``fallline bench step``: the header, a table per parameter set as it is done, and the targets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fallline.bench import Plan, Result, Row, judge, make_plan, measure_memory, num_threads, run, save, start_compiler
from fallline.bench.memory import Extra
from fallline.bench.table import COLUMNS, MEMORY_COLUMNS, cells, header, memory_cells, numel_text
from fallline.cli.catalogue import check_folder_of, console
from fallline.core.errors import InvalidValueError
from fallline.lab.environment import describe, load_average

__all__ = ["bench_step"]

_LEFT = ("method", "by", "gradient")


def bench_step(plan: Plan, threads: int, file: Path | None, memory: bool, command: str) -> int:
    """Measure, print, and write the file."""
    if memory and (plan.rounds is not None or plan.quick):
        raise InvalidValueError(
            "--memory got --rounds or --quick, which are about time. Expected it without: memory is counted once, exactly. "
            "Drop them."
        )
    check_folder_of(file)
    out = console()
    load = load_average()
    with num_threads(threads), start_compiler(("eager",) if memory else plan.layouts, plan.device) as started:
        about = {**describe(), "threads": threads, "load": load, "compiler_start": started, "command": command}
        if plan.device != "cpu":
            about |= {"device": torch.cuda.get_device_name(plan.device)}
        about = {"date": time.strftime("%Y-%m-%d %H:%M"), **{k: v for k, v in about.items() if k != "threads per run"}}
        out.print(header(about))
        result = _memory(plan, about, out) if memory else _times(plan, about, out)
    if file is not None:
        save(file, result)
        out.print(f"Every round is in {file}.")
    return 0


def _times(plan: Plan, about: dict[str, Any], out: Console) -> Result:
    rows: list[Row] = []
    left_out: list[str] = []
    steps = run(plan, lambda text: _say(waiting, text))
    with _waiting(out) as waiting:
        for found, missing in steps:
            rows += found
            left_out += missing
            _print_rows(found, out)
    out.print("ms: median of step() and zero_grad(). x fused AdamW: median of the ratios within a round. bytes: read and "
              "written per parameter.\nx copy, x in place: times as long as a plain copy, or an in-place product, of those bytes. "
              "More: benchmarks/README.md.")  # fmt: skip
    for line in left_out:
        out.print(Text(f"left out          {line}"))
    out.print()
    for outcome in judge(rows):
        out.print(Text(outcome.line))
    return Result({**about, "load_after": load_average()}, tuple(rows), tuple(left_out))


def _print_rows(rows: Sequence[Row], out: Console) -> None:
    out.print(Text(f"\n{numel_text(rows[0])}", style="bold"))
    table = _table(COLUMNS)
    for row in rows:
        table.add_row(*map(Text, cells(row)))
    out.print(table)
    for row in rows:
        if row.error:
            out.print(Text(f"failed            {row.name} {row.method}: {row.error}"))


def _memory(plan: Plan, about: dict[str, Any], out: Console) -> Result:
    extras: list[Extra] = []
    with _waiting(out) as waiting:
        for found in measure_memory(plan, lambda text: _say(waiting, text)):
            extras += found
            out.print(Text(f"\n{found[0].set}: bytes per parameter", style="bold"))
            table = _table(MEMORY_COLUMNS)
            for extra in found:
                table.add_row(*map(Text, memory_cells(extra)))
            out.print(table)
            for extra in found:
                if extra.error:
                    out.print(Text(f"failed            {extra.name} {extra.method}: {extra.error}"))
    out.print("step's peak: above parameters, gradients and state, at the worst moment. kept: between steps, after "
              "zero_grad().")  # fmt: skip
    return Result(about, (), (), tuple(extras))


def _table(columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name, no_wrap=name in (*_LEFT, "25-75 %"), justify="left" if name in _LEFT else "right")
    return table


def _waiting(out: Console) -> AbstractContextManager[Any]:
    """A line that says what goes on, on a terminal only."""
    return out.status("starting") if out.is_terminal else nullcontext()


def _say(waiting: Any, text: str) -> None:
    if waiting is not None:
        waiting.update(text)


def plan_of(
    sets: str | None,
    methods: str | None,
    fuse: str | None,
    peers: bool,
    quick: bool,
    rounds: int | None,
    device: str = "cpu",
) -> Plan:
    """The plan of a command line's comma-separated names."""
    named = [None if text is None else [n.strip() for n in text.split(",")] for text in (sets, methods, fuse)]
    return make_plan(*named, peers=peers, quick=quick, rounds=rounds, device=device)
