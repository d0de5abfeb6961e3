"""``fallline methods``, ``tasks`` and ``claims``: what there is, as tables and pages."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fallline.core.errors import InvalidValueError
from fallline.core.method import Method
from fallline.core.schedule import Schedule
from fallline.lab.entries import METHODS, STEP_METHODS, StepMethod, entry_of

__all__ = ["print_claims", "print_method", "print_methods", "print_task", "print_tasks"]


def check_folder_of(file: Path | None) -> None:
    """Raise before anything is measured if the file of ``--json`` could not be written afterwards."""
    if file is not None and not file.parent.is_dir():
        raise InvalidValueError(
            f"--json got {str(file)!r}, but {str(file.parent)!r} is no folder. Expected a file in a folder that exists. "
            f"Make it first."
        )


def console() -> Console:
    """The terminal, or plain wide text where output is not a terminal."""
    here = Console(highlight=False)
    return here if here.is_terminal else Console(highlight=False, width=140, no_color=True)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=name in ("method", "task"), justify="right" if name == "bytes" else "left")
    return table


def print_methods() -> int:
    """One row per method."""
    table = _table("method", "family", "idea", "paper", "bytes", "reach")
    for entry in (*METHODS.values(), *STEP_METHODS.values()):
        idea = entry.summary.partition(": ")[2] or entry.summary
        table.add_row(
            Text(entry.name, style="bold"), entry.family, idea, f"{entry.card.source.split(',')[0]} ({entry.card.year})",
            f"{entry.state_bytes():g}", entry.reach.name.lower(),
        )  # fmt: skip
    out = console()
    out.print(table)
    out.print(
        f"{len(METHODS)} methods and {len(STEP_METHODS)} second-order solvers (family second_order). bytes: state per float32 parameter. reach: how far one element of the update looks.\n"
        f"fallline methods NAME prints a method's page."
    )
    return 0


def print_method(name: str) -> int:
    """The page of one method."""
    entry = entry_of(name)
    out = console()
    out.print(Text(f"{entry.label}  ({entry.name}, family {entry.family})", style="bold"))
    out.print(Text(entry.doc), end="\n\n")
    out.print(Text(f"Paper    {entry.card.title} ({entry.card.year}), {entry.card.source}"))
    if entry.card.notes:
        out.print(Text(f"Notes    {entry.card.notes}"))
    out.print(Text(f"Memory   {entry.state_bytes():g} bytes of state per float32 parameter{_slots(entry)}"))
    out.print(Text(f"Reach    {entry.reach.name.lower()}"))
    out.print(Text(f"Use      {_use(entry)}"), end="\n\n")
    table = _table("hyperparameter", "default", "allowed", "search range")
    for key, value in entry.defaults.items():
        hyper = key in entry.hypers
        shown = f"{value:g}" if hyper and not isinstance(value, Schedule) else str(value)
        table.add_row(key, shown, str(entry.domain(key)) if hyper else "option", str(entry.space.get(key, "")))
    out.print(table)
    for claim in entry.claims:
        out.print(Text(f"Claim    {claim.text} ({claim.where})"))
    out.print(Text(f"         checked by: fallline claims {entry.name}"))
    return 0


def _slots(entry: Method) -> str:
    if isinstance(entry, StepMethod):
        return ""
    return f": {', '.join(s for step in entry().steps for s in step.slots) or 'none'}"


def _use(entry: Method) -> str:
    if isinstance(entry, StepMethod):
        return f"fallline run TASK --method {entry.name}; in code: docs/second_order.md"
    return f"fallline.optim.{entry.label}(model.parameters(), lr={entry.defaults['lr']:g})"


def print_tasks() -> int:
    """One row per task, without loading any data."""
    from fallline.tasks import SUITES, TASKS

    table = _table("task", "what", "data", "batch", "steps", "metric", "target")
    for entry in TASKS.values():
        table.add_row(
            Text(entry.name, style="bold"), entry.summary, entry.data, str(entry.batch_size), str(entry.steps),
            str(entry.metric), f"{entry.target:g}",
        )  # fmt: skip
    out = console()
    out.print(table)
    for name, members in SUITES.items():
        told = "every task" if len(members) == len(TASKS) else ", ".join(members)
        out.print(Text(f"--suite {name:<6}{told}"), soft_wrap=not out.is_terminal)
    out.print("\nfallline tasks NAME prints a task's card.")
    out.print("Your own: fallline compare my_module:make_task, where make_task() returns a fallline.tasks.Task.")
    return 0


def print_task(name: str) -> int:
    """The card of one task, of ours or of the user's: what it tells apart, data, model, budget, metric and target."""
    import torch

    from fallline.tasks import TASKS, baselines, load

    task = load(name)
    with torch.random.fork_rng(devices=[]):
        numbers = sum(p.numel() for p in task.model().parameters() if p.requires_grad)
    better = "lower is better" if task.metric.minimize else "higher is better"
    out = console()
    out.print(Text(task.name, style="bold"))
    if name in TASKS:
        out.print(Text(TASKS[name].doc), end="\n\n")
    _line(out, "Summary", task.summary)
    for source in task.sources:
        _line(out, "Data", f"{source.name}{' (SYNTHETIC stand-in)' if source.synthetic else ''}; {source.origin}")
        _line(out, "Licence", source.licence)
    _line(out, "Examples", f"{len(task.train):,} to train on, {len(task.valid):,} to validate on")
    _line(out, "Model", f"{numbers:,} trainable numbers")
    _line(out, "Budget", f"{task.steps:,} steps of {task.batch_size} examples; {task.num_evals} evaluations")
    _line(out, "Metric", f"{task.metric}, {better}")
    _line(out, "Target", f"{task.target:g}{f': {task.target_note}' if task.target_note else ''}")
    for method, space in task.spaces.items():
        _line(out, "Range", f"{method}: {', '.join(f'{key} {value}' for key, value in space.items())}")
    tuned = baselines(name)
    for baseline in tuned:
        _line(out, "Tuned", str(baseline))
    if tuned:
        _line(out, "", f"after {tuned[0].steps:,} steps; {tuned[0].date}, {tuned[0].command}")
    _line(out, "Run", f"fallline run {shlex.quote(name)} --method adamw --set lr=3e-3")
    _line(out, "Compare", f"fallline compare {shlex.quote(name)} --budget quick")
    return 0


def _line(out: Console, label: str, text: str) -> None:
    out.print(Text(f"{label:<9}{text}"))


def print_claims(names: Sequence[str], families: Sequence[str]) -> int:
    """Every claim with its outcome and time."""
    import torch

    from fallline.lab.claims import all_claims, run_claim

    torch.set_num_threads(1)  # small problems: a second thread only waits
    chosen = all_claims(names, families)  # a misspelt name is an error before anything runs
    results = [run_claim(subject, claim) for subject, claim in chosen]
    table = _table("of", "claim", "where", "seconds", "outcome")
    for r in results:
        table.add_row(r.subject, r.text, r.where, f"{r.seconds:.2f}", "holds" if r.ok else f"FAILS: {r.detail}")
    out = console()
    out.print(table)
    failed = sum(not r.ok for r in results)
    out.print(f"{len(results) - failed} of {len(results)} claims hold.")
    return int(failed > 0)
