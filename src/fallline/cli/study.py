"""``fallline compare``, ``demo``, ``resume``, ``report`` and ``run``: from a command line to a study and its report."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fallline.cli.catalogue import console
from fallline.cli.progress import Progress
from fallline.core.errors import FalllineError, unknown
from fallline.core.execute import compiler_available
from fallline.lab import RunSpec, StudySpec, load_study, make_spec, run_study, train, write_results
from fallline.lab.batch_sizes import load_entry
from fallline.lab.engines import EngineChoice
from fallline.lab.entries import entry_of
from fallline.lab.statistics import default_num_seeds
from fallline.lab.study import engine_of
from fallline.tasks import Metric, Task, suite

__all__ = [
    "compare_and_report",
    "named_tasks",
    "print_end",
    "ranges_of_file",
    "report_again",
    "resume_and_report",
    "run_once",
    "run_spec",
    "setting",
]


def compare_and_report(
    tasks: Sequence[str],
    methods: Sequence[str],
    budget: str,
    seeds: int | None,
    folder: Path,
    ranges: Sequence[str],
    choice: EngineChoice,
    extras: bool = True,
    batch_size: str | None = None,
    prune: bool = False,
) -> int:
    """Validate, run what is missing, print the verdict, write the report."""
    spec = make_spec(tasks, methods, budget, seeds, _spaces(ranges), extras, _batch_sizes(batch_size), prune)
    return _run(spec, folder, choice)


def named_tasks(tasks: Sequence[str], suite_name: str | None) -> tuple[list[str], list[str]]:
    """What the study's folder is named after, and all its tasks: those given and those of the suite."""
    names = [Path(t.partition(":")[0]).stem for t in tasks]
    if suite_name is None:
        return names, list(tasks)
    return [*names, suite_name], [*tasks, *suite(suite_name)]


def resume_and_report(folder: Path, engine: str | None, workers: int | None, address: str | None) -> int:
    """Go on with the study in a folder, as it was run before unless told otherwise."""
    spec, _ = load_study(folder)
    return _run(spec, folder, engine_of(folder).changed(engine, workers, address))


def report_again(folder: Path) -> int:
    """Rebuild results and report from the store."""
    _, results = load_study(folder)
    _publish(results, folder, console())
    return 0


def _batch_sizes(text: str | None) -> list[int]:
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise FalllineError(
            f"--batch-size got {text!r}. Expected numbers of examples with commas between. Write for example --batch-size 32,128,512."
        ) from None


def _run(spec: StudySpec, folder: Path, choice: EngineChoice) -> int:
    out = console()
    _announce(spec, choice, out)
    with Progress(out) as progress:
        results = run_study(spec, folder, choice.num_workers, progress, engine=choice.name, address=choice.address)
    _publish(results, folder, out)
    return 0


def _announce(spec: StudySpec, choice: EngineChoice, out: Console) -> None:
    plan = spec.plan
    tuned = "the learning rate" if plan.num_tuned == 1 else f"{plan.num_tuned} hyperparameters"
    out.print(f"tasks     {', '.join(spec.tasks)}")
    out.print(f"methods   {', '.join(spec.methods)} (adamw and nesterov are always included)")
    out.print(
        f"plan      {plan.trials} trials for {tuned} of each method, then its best on {spec.num_seeds} fresh seed{'s' * (spec.num_seeds > 1)}: "
        f"{spec.num_runs} runs, {choice}"
    )
    if spec.batch_sizes:
        out.print(
            f"batches   of {', '.join(map(str, spec.batch_sizes))} examples, every method tuned anew at each, for as many samples"
        )
    if spec.prune:
        out.print("note      --prune gives up trials early: the study explores, and proves nothing")
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
    loaded = load_entry(task)
    record = train(loaded, run_spec(loaded, task, method, settings, seed, steps))
    out, metric = console(), loaded.metric
    out.print(f"{'step':>7}  {'train loss':>12}  {metric}")
    for t, loss, value in zip(record["steps"], record["train_loss"], record["metric"], strict=True):
        out.print(f"{t:7d}  {loss:12.6g}  {value:.6g}")
    print_end(record, metric, out)
    return 0


def print_end(record: Mapping[str, Any], metric: Metric, out: Console) -> None:
    """How a run ended."""
    if record["status"] == "diverged":
        out.print(f"diverged at step {record['diverged_at']}")
    else:
        out.print(f"final {metric}: {record['final']!r}")


def run_spec(loaded: Task, task: str, method: str, settings: Sequence[str], seed: int, steps: int | None) -> RunSpec:
    """What ``fallline run`` is asked to train, checked."""
    hypers = dict(setting(text, method) for text in settings)
    entry_of(method).check(hypers)
    return RunSpec(task, method, tuple(sorted(hypers.items())), seed, steps or loaded.steps, "confirm")


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
