"""``fallline compare``, ``demo``, ``resume``, ``report`` and ``run``: from a command line to a study and its report."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fallline.cli.catalogue import console
from fallline.cli.progress import Progress
from fallline.core.errors import FalllineError, unknown
from fallline.core.execute import compiler_available
from fallline.lab import RunSpec, StudySpec, load_study, make_spec, run_study, train, write_results
from fallline.lab.entries import entry_of
from fallline.lab.statistics import default_num_seeds
from fallline.tasks import load

__all__ = ["compare_and_report", "ranges_of_file", "report_again", "resume_and_report", "run_once", "setting"]


def compare_and_report(
    tasks: Sequence[str],
    methods: Sequence[str],
    budget: str,
    seeds: int | None,
    folder: Path,
    ranges: Sequence[str],
    workers: int,
) -> int:
    """Validate, run what is missing, print the verdict, write the report."""
    spec = make_spec(tasks, methods, budget, seeds, _spaces(ranges))
    return _run(spec, folder, workers)


def resume_and_report(folder: Path, workers: int) -> int:
    """Go on with the study in a folder."""
    spec, _ = load_study(folder)
    return _run(spec, folder, workers)


def report_again(folder: Path) -> int:
    """Rebuild results and report from the store."""
    _, results = load_study(folder)
    _publish(results, folder, console())
    return 0


def _run(spec: StudySpec, folder: Path, workers: int) -> int:
    out = console()
    _announce(spec, workers, out)
    with Progress(out) as progress:
        results = run_study(spec, folder, workers, progress)
    _publish(results, folder, out)
    return 0


def _announce(spec: StudySpec, workers: int, out: Console) -> None:
    plan = spec.plan
    tuned = "the learning rate" if plan.num_tuned == 1 else f"{plan.num_tuned} hyperparameters"
    out.print(f"tasks     {', '.join(spec.tasks)}")
    out.print(f"methods   {', '.join(spec.methods)} (adamw and nesterov are always included)")
    out.print(
        f"plan      {plan.trials} trials for {tuned} of each method, then its best on {spec.num_seeds} fresh seed{'s' * (spec.num_seeds > 1)}: "
        f"{spec.num_runs} runs, {workers} at a time"
    )
    enough = default_num_seeds(len(spec.methods))
    if spec.num_seeds < enough:
        out.print(
            f"note      {spec.num_seeds} seed{'s' * (spec.num_seeds > 1)} can rank {len(spec.methods)} methods, not prove a difference; --seeds {enough} can"
        )
    if not compiler_available():
        out.print("note      no C++ compiler found: optimizer steps run eagerly, to the same numbers")


def _publish(results: dict[str, Any], folder: Path, out: Console) -> None:
    from fallline.report import write
    from fallline.report.terminal import print_results

    write_results(results, folder)
    path = write(results, folder / "report.html")
    print_results(results, out)
    out.print(f"\nreport    {path}", soft_wrap=True)
    if not results["study"]["complete"]:
        out.print(f"The study is not complete. Go on with: {results['study']['resume']}", soft_wrap=True)


def run_once(task: str, method: str, settings: Sequence[str], seed: int, steps: int | None) -> int:
    """Train once and print the curve."""
    import torch

    torch.set_num_threads(1)
    loaded = load(task)
    entry = entry_of(method)
    hypers = dict(setting(text, method) for text in settings)
    entry.check(hypers)
    spec = RunSpec(task, method, tuple(sorted(hypers.items())), seed, steps or loaded.steps, "confirm")
    record = train(loaded, spec)
    out, metric = console(), loaded.metric
    out.print(f"{'step':>7}  {'train loss':>12}  {metric}")
    for t, loss, value in zip(record["steps"], record["train_loss"], record["metric"], strict=True):
        out.print(f"{t:7d}  {loss:12.6g}  {value:.6g}")
    if record["status"] == "diverged":
        out.print(f"diverged at step {record['diverged_at']}")
    else:
        out.print(f"final {metric}: {record['final']!r}")
    return 0


def setting(text: str, method: str) -> tuple[str, float]:
    """``NAME=NUMBER``, a hyperparameter of the method."""
    name, equals, value = text.partition("=")
    try:
        if not equals:
            raise ValueError
        number = float(value)
    except ValueError:
        raise FalllineError(
            f"--set got {text!r}. Expected NAME=NUMBER for a hyperparameter of {method}. Write for example --set lr=3e-3."
        ) from None
    if name not in entry_of(method).hypers:
        raise unknown(f"hyperparameter of {method}", name, entry_of(method).hypers)
    return name, number


def ranges_of_file(path: Path | None) -> list[str]:
    """The ranges of a TOML file, written as ``--space`` takes them: a table per method, ``lr = "1e-4..1e-1"``."""
    if path is None:
        return []
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise FalllineError(
            f"Cannot read {path} ({error.strerror}). Expected a TOML file of search ranges. Check the path."
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise FalllineError(
            f'{path} is not TOML ({error}). Expected tables such as [adamw] with lr = "1e-4..1e-1". Correct it.'
        ) from None
    found = []
    for method, table in tables.items():
        if not isinstance(table, dict):
            raise FalllineError(
                f"{path}: {method} = {table!r} stands outside a table. Expected [METHOD] tables. Write [adamw] above it."
            )
        for name, text in table.items():
            if not isinstance(text, str):
                raise FalllineError(
                    f'{path}: {method}.{name} is {text!r}. Expected a range as text. Write {name} = "1e-4..1e-1".'
                )
            found.append(f"{method}.{name}={text}")
    return found


def _spaces(ranges: Sequence[str]) -> dict[str, dict[str, str]]:
    """``adamw.lr=1e-4..1e-1`` -> {"adamw": {"lr": "1e-4..1e-1"}}; a later range replaces an earlier one."""
    spaces: dict[str, dict[str, str]] = {}
    for text in ranges:
        where, equals, interval = text.partition("=")
        method, dot, name = where.partition(".")
        if not (equals and dot and method and name):
            raise FalllineError(
                f"--space got {text!r}. Expected METHOD.NAME=LOW..HIGH. Write for example --space adamw.lr=1e-4..1e-1."
            )
        spaces.setdefault(method, {})[name] = interval.strip()
    return spaces
