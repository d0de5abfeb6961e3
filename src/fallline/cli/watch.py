"""``fallline watch``: where a study stands, read from its store while another process runs it, or after."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fallline.cli.catalogue import console
from fallline.core.errors import FalllineError
from fallline.lab import Finished, Snapshot, StudySpec, read_study
from fallline.lab.batch_sizes import base_of
from fallline.lab.study import ANCHOR
from fallline.report.words import brief, duration, hypers
from fallline.tasks import TASKS, Metric, load

__all__ = ["Row", "rows", "seconds_left", "watch_study"]

PAUSE_SECONDS, PAUSE_RUNS = 60.0, 40.0
"""A gap between two finished runs that is longer than this many seconds and this many times a run is a pause: nobody trained."""
TRIALS = ("tune", "prune")
FEWEST = 3
"""Runs from which a pace may be told."""


@dataclass(frozen=True)
class Row:
    """One method on one task: runs done of those planned, and the best trial so far."""

    task: str
    method: str
    trials: tuple[int, int]
    seeds: tuple[int, int]
    extras: tuple[int, int]  # at its defaults, at AdamW's best learning rate, for the noise scale
    diverged: int
    best: Finished | None
    seconds: float | None  # CPU seconds of a run, the median

    @property
    def left(self) -> int:
        """Runs still to come; the fresh seeds of a method whose every trial diverged are not."""
        return sum(planned - done for done, planned in (self.trials, self.seeds, self.extras))


def watch_study(folder: Path, every: float = 1.0) -> int:
    """Show a study until it is finished, on a terminal; one plain snapshot elsewhere."""
    seen = read_study(folder)
    metrics = _metrics(seen.spec.entries)
    out = console()
    if not out.is_terminal:
        out.print(_picture(folder, seen, metrics, styled=False))
        return 0
    with Live(_picture(folder, seen, metrics, styled=True), console=out, auto_refresh=False) as live:
        try:
            while not seen.finished:
                time.sleep(every)
                seen = read_study(folder)
                live.update(_picture(folder, seen, metrics, styled=True), refresh=True)
        except KeyboardInterrupt:  # the way out; the study goes on
            pass
    return 0


def rows(seen: Snapshot, metrics: dict[str, Metric | None]) -> list[Row]:
    """A row for every method on every task, in the order of the study."""
    spec = seen.spec
    found: dict[tuple[str, str], list[Finished]] = {(t, m): [] for t in spec.entries for m in spec.methods}
    for run in seen.runs:
        found.get((run.task, run.method), []).append(run)
    lost = {where for where, runs in found.items() if _lost(runs, spec.plan.trials)}
    return [
        _row(t, m, runs, spec, metrics[t], spec.num_runs_of(m, (t, m) not in lost, (t, ANCHOR) not in lost))
        for (t, m), runs in found.items()
    ]


def _lost(runs: Sequence[Finished], planned: int) -> bool:
    """Whether every trial has diverged: then no fresh seeds follow."""
    trials = [run for run in runs if run.purpose in TRIALS]
    return len(trials) == planned and all(run.final is None for run in trials)


def _row(task: str, method: str, runs: Sequence[Finished], spec: StudySpec, metric: Metric | None, planned: int) -> Row:
    kinds = Counter(
        "trial" if run.purpose in TRIALS else "seed" if run.purpose == "confirm" else "extra" for run in runs
    )
    kept = [run for run in runs if run.purpose in TRIALS and run.final is not None]
    num_trials = spec.plan.trials
    num_seeds = 0 if _lost(runs, num_trials) else spec.num_seeds
    best = None
    if kept and metric is not None:
        best = (min if metric.minimize else max)(kept, key=lambda run: run.final or 0.0)
    return Row(
        task,
        method,
        trials=(kinds["trial"], num_trials),
        seeds=(kinds["seed"], num_seeds),
        extras=(kinds["extra"], planned - num_trials - num_seeds),
        diverged=sum(run.diverged for run in runs),
        best=best,
        seconds=median(run.seconds for run in runs) if runs else None,
    )


def seconds_left(table: Sequence[Row], runs: Sequence[Finished]) -> float | None:
    """Wall-clock seconds to the end: the CPU seconds that the missing runs will take, at the study's pace so far.

    A run takes the median of its method on its task, else of its task, else of all; the pace is wall-clock seconds for a CPU
    second while runs were finishing, pauses left out. None before three runs.
    """
    if len(runs) < FEWEST:
        return None
    wall = trained = 0.0
    for before, run in zip(runs, runs[1:], strict=False):
        gap = (run.at - before.at).total_seconds()
        if gap <= max(PAUSE_SECONDS, PAUSE_RUNS * run.seconds):
            wall, trained = wall + gap, trained + run.seconds
    if not trained:
        return None
    by_task = {name: median(r.seconds for r in runs if r.task == name) for name in {r.task for r in runs}}
    overall = median(r.seconds for r in runs)
    work = sum(r.left * (r.seconds if r.seconds is not None else by_task.get(r.task, overall)) for r in table)
    return work * wall / trained


def _metrics(names: Sequence[str]) -> dict[str, Metric | None]:
    """What each task measures; None where a user's task cannot be made here, in another folder for example."""
    found: dict[str, Metric | None] = {}
    for name in names:
        try:
            task = base_of(name)
            found[name] = TASKS[task].metric if task in TASKS else load(task).metric
        except FalllineError:
            found[name] = None
    return found


def _picture(folder: Path, seen: Snapshot, metrics: dict[str, Metric | None], styled: bool) -> Group:
    table = rows(seen, metrics)
    states = Counter("diverged" if run.diverged else "done" for run in seen.runs)
    planned = sum(r.trials[1] + r.seeds[1] + r.extras[1] for r in table)
    lines = [f"study     {folder}: {len(seen.runs)} of {planned} runs, {states['diverged']} diverged"]
    lines += [
        f"          of {name} no best is shown: it cannot be loaded here" for name, m in metrics.items() if m is None
    ]
    return Group(Text("\n".join(lines)), _table(table, styled), Text(_state(folder, seen, table)))


def _state(folder: Path, seen: Snapshot, table: Sequence[Row]) -> str:
    if seen.finished:
        return f"finished  report: {folder / 'report.html'}"
    left = seconds_left(table, seen.runs)
    text = "running   " + ("no run has finished yet" if not seen.runs else "too early to say how long")
    if left is not None:
        text = f"running   about {duration(round(left))} left"
    if seen.runs:
        ago = (datetime.now(UTC) - seen.runs[-1].at).total_seconds()
        text += f"; the last run finished {duration(max(0.0, ago))} ago"
        if ago > max(PAUSE_SECONDS, PAUSE_RUNS * seen.runs[-1].seconds):
            text = f"stopped?  {text[10:]}. Go on with: fallline resume {folder}"
    return text


def _table(table: Sequence[Row], styled: bool) -> Table:
    shown = Table(box=None, pad_edge=False, padding=(0, 1))
    for name in ("task", "method", "trials", "diverged", "seeds", "best so far"):
        number = name in ("trials", "diverged", "seeds")
        shown.add_column(name, justify="right" if number else "left", no_wrap=name != "best so far")
    last = ""
    for r in table:
        best = "" if r.best is None else f"{brief(r.best.final, 4)}  {hypers(dict(r.best.hypers))}"
        style = "dim" if not r.trials[0] else "" if r.left else "green"
        shown.add_row(
            "" if r.task == last and styled else _short(r.task),
            r.method,
            f"{r.trials[0]}/{r.trials[1]}",
            str(r.diverged or ""),
            f"{r.seeds[0]}/{r.seeds[1]}",
            best,
            style=style if styled else None,
        )
        last = r.task
    return shown


def _short(task: str) -> str:
    """A user's task without its folder: ``tasks/mine.py:make_task`` -> ``mine.py:make_task``."""
    return Path(task).name
