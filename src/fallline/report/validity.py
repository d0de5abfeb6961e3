"""The lights beside a verdict: what makes the comparison of a task valid, and what weakens it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fallline.report.schema import Results, Task
from fallline.report.words import number

__all__ = ["Light", "crowded", "lights"]

ALPHA = 0.05
CROWDED = 1.25  # load per core: a study keeps its own workers busy, so up to 1 is its own doing


@dataclass(frozen=True)
class Light:
    """One condition: ``good``, ``note`` (read the numbers with it in mind) or ``bad`` (it weakens the verdict)."""

    name: str
    state: Literal["good", "note", "bad"]
    text: str


def lights(results: Results, task: Task) -> list[Light]:
    """The conditions of one task, in the order of importance."""
    found = [_complete(results), _budget(task), _edges(task), _diverged(task), _seeds(results, task), _clock(results)]
    return [light for light in [*found, _data(task)] if light is not None]


def crowded(results: Results) -> bool:
    """Whether other work shared the machine, by the load averages before and after against the number of cores."""
    cores = results.environment.get("cores")
    loads = [results.environment.get(key) for key in ("load_start", "load_end")]
    return isinstance(cores, int | float) and any(isinstance(x, int | float) and x > CROWDED * cores for x in loads)


def _complete(results: Results) -> Light | None:
    runs = results.study.runs
    if runs.failed:
        return Light("Runs", "bad", f"{runs.failed} of {runs.planned} failed")
    if not results.study.complete:
        return Light("Runs", "bad", f"unfinished: {runs.done + runs.diverged} of {runs.planned} runs")
    return None


def _budget(task: Task) -> Light:
    counts = sorted({len(m.trials) for m in task.methods})
    if len(counts) == 1:
        return Light("Equal budget", "good", f"{counts[0]} trials each")
    return Light("Equal budget", "bad", f"{counts[0]} to {counts[-1]} trials")


def _edges(task: Task) -> Light:
    found = [f"{m.name} {e.name} ({e.side})" for m in task.methods if m.best for e in m.best.edges]
    if found:
        return Light("Space edges", "bad", f"best on the edge: {', '.join(found)}")
    return Light("Space edges", "good", "no best point on an edge")


def _diverged(task: Task) -> Light:
    trials = [t for m in task.methods for t in m.trials]
    runs = [r for m in task.methods for r in m.runs]
    lost = sum(t.status == "diverged" for t in trials)
    text = f"{lost} of {len(trials)} trials" + (f" ({number(100 * lost / len(trials), 2)} %)" if lost else "")
    late = sum(r.status == "diverged" for r in runs)
    if late:
        return Light("Diverged", "bad", f"{text}; {late} of {len(runs)} final runs")
    hopeless = [m.name for m in task.methods if m.trials and all(t.status == "diverged" for t in m.trials)]
    if hopeless:
        return Light("Diverged", "bad", f"{text}; all of {', '.join(hopeless)}")
    return Light("Diverged", "note" if lost > len(trials) / 3 else "good", text)


def _seeds(results: Results, task: Task) -> Light:
    seeds = results.study.seeds
    if results.study.tuning_seed in seeds:
        return Light("Fresh seeds", "bad", f"the tuning seed {results.study.tuning_seed} is among them")
    weak = bool(task.comparisons) and all(c.smallest_p is not None and c.smallest_p > ALPHA for c in task.comparisons)
    if weak:
        return Light("Fresh seeds", "bad", f"{len(seeds)}: too few to prove a difference")
    return Light("Fresh seeds", "good", f"{len(seeds)}, none used for tuning")


def _clock(results: Results) -> Light:
    environment = results.environment
    start, end, cores = environment.get("load_start"), environment.get("load_end"), environment.get("cores")
    if start is None or end is None or cores is None:
        return Light("Clock", "note", "load of the machine unknown")
    text = f"load {start} to {end} on {cores} cores"
    return Light(
        "Clock", "note" if crowded(results) else "good", text + (": times disturbed" if crowded(results) else "")
    )


def _data(task: Task) -> Light | None:
    if not task.data:
        return Light("Data", "note", "source not declared")
    made = [d.name for d in task.data if d.synthetic]
    if made:
        return Light("Data", "bad", f"SYNTHETIC: {', '.join(made)}")
    return Light("Data", "good", "real: " + ", ".join(d.name for d in task.data))
