"""``fallline bench population``: a table, and whether the targets are met."""

from __future__ import annotations

import statistics

import torch
from rich import box
from rich.table import Table
from rich.text import Text

from fallline.bench.population import chosen_cases, measure_population
from fallline.cli.catalogue import console
from fallline.lab.engines.local import keep_memory
from fallline.lab.environment import load_average

__all__ = ["bench_population"]


def bench_population(tasks: str | None, rounds: int, workers: int, cpu: bool, device: str = "cpu") -> int:
    """Measure and print; exit code 0 also where a target is missed."""
    cases = chosen_cases(tasks, device)
    keep_memory()
    out = console()
    how = "processor time, together in one process" if cpu else f"wall-clock time, together in {workers} processes"
    if device == "cpu":
        out.print(f"load {load_average()}; {how}, one after the other in one; a thread each")
    else:
        out.print(
            f"load {load_average()}; wall-clock time, all on {torch.cuda.get_device_name(device)}, in one process"
        )
    reasons = []
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("task", "runs", "alone, ms a step", "together, ms a step", "times as fast", "25-75 %", "target"):
        table.add_column(name, justify="left" if name == "task" else "right")
    for case in cases:
        found = measure_population(case, rounds, workers, cpu, device=device)
        reasons += [f"{case.task}: one by one in every process, since {found.reason}"] if found.reason else []
        low, high = _quartiles(found.ratios)
        table.add_row(
            case.task,
            str(len(case.specs)),
            f"{1e3 * statistics.median(found.alone):.3g}",
            f"{1e3 * statistics.median(found.together):.3g}",
            f"{found.median:.2f}",
            f"{low:.2f}-{high:.2f}",
            Text(f"{case.target:g} {'met' if found.met else 'missed'}"),
        )
    out.print(table)
    out.print("ms a step: of one run, everything counted. Medians of rounds in which both were timed in turn.")
    for reason in reasons:
        out.print(reason)
    return 0


def _quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high
