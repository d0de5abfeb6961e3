"""``fallline diagnose``: why a run behaves as it does, and what to change."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from fallline.cli.catalogue import console
from fallline.cli.study import setting
from fallline.lab.diagnose import diagnose
from fallline.lab.entries import gradient_method
from fallline.tasks import load

__all__ = ["print_diagnosis"]


def print_diagnosis(
    task: str, method: str, lr: float | None, settings: Sequence[str], seed: int, steps: int | None, out: Path | None
) -> int:
    """Run, explain, rerun; the findings in the terminal and a page beside."""
    import torch

    from fallline.report.diagnosis import render_diagnosis
    from fallline.report.files import put

    torch.set_num_threads(1)  # as studies train, so that numbers agree
    screen = console()
    gradient_method(method, "diagnose")
    hypers = dict(setting(text, method) for text in settings) | ({} if lr is None else {"lr": lr})
    found = diagnose(
        load(task),
        method,
        hypers,
        steps=steps,
        seed=seed,
        say=lambda text: screen.print(f"run       {text}", soft_wrap=True),
    )
    screen.print()
    screen.print(found.verdict, soft_wrap=not screen.is_terminal)
    screen.print()
    for finding in found.trial.findings:
        screen.print(f"- {finding.text}", soft_wrap=not screen.is_terminal)
    screen.print()
    metric = found.task.metric
    for text, trial in [("as given", found.trial), *found.changes]:
        screen.print(f"{text:14} {metric} {trial.final:.6g}" if trial.final == trial.final else f"{text:14} failed")
    values = [f"--set {shlex.quote(f'{n}={v!r}')}" for n, v in sorted(hypers.items())]
    command = " ".join(
        [
            "fallline diagnose",
            shlex.quote(task),
            f"--method {method}",
            *values,
            f"--seed {seed}",
            f"--steps {found.trial.spec.steps}",
        ]
    )
    path = put(
        render_diagnosis(found, command), out or Path(f"fallline-{Path(task.partition(':')[0]).stem}-{method}.html")
    )
    screen.print(f"\nreport    {path}", soft_wrap=True)
    return 0
