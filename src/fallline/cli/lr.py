"""``fallline lr``: which learning rate, how wide the range of good ones is, what it cost to find and how sure it is."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console

from fallline.cli.catalogue import check_folder_of, console
from fallline.cli.study import setting
from fallline.lab.bracket import NUM_PROBES, STEPS
from fallline.lab.rate import FoundRate, Trial, find_rate
from fallline.tasks import load

__all__ = ["print_rate"]


def print_rate(task: str, method: str, settings: Sequence[str], steps: int | None, seed: int, file: Path | None) -> int:
    """Search, print each run as it ends, then the answer; exit code 1 if nothing can be told."""
    torch.set_num_threads(1)
    check_folder_of(file)
    loaded = load(task)
    hypers = dict(setting(text, method) for text in settings)
    out = console()
    metric = loaded.metric
    out.print(f"{method} on {task}: probes of {STEPS} steps, then short runs with warm-up and cosine; {metric}")

    def show(trial: Trial) -> None:
        finals = "  ".join("diverged" if x is None else f"{x:.4g}" for x in trial.finals)
        out.print(f"  lr {trial.rate:<8g} {'a quarter' if trial.share < 1 else 'all'} of the steps: {finals}")

    found = find_rate(loaded, method, hypers, steps=steps, seed=seed, on_trial=show)
    _answer(found, out)
    if found.rate is not None:
        sets = " ".join(f"--set {text}" for text in [*settings, f"lr={found.rate:g}"])
        out.print(
            f"run          fallline run {shlex.quote(task)} --method {method} {sets} --steps {found.steps}",
            soft_wrap=True,
        )
    if file is not None:
        file.write_text(json.dumps({"task": task, "method": method, **asdict(found)}, indent=1) + "\n")
    return int(found.rate is None)


def _answer(found: FoundRate, out: Console) -> None:
    at, gradients = found.bracket, found.gradient_evaluations
    lines = {"loss": f"{at.loss:.4g} at the start, {at.noise:.2g} from batch to batch"}
    if at.edge is None:
        lines["edge"] = "of divergence: none found"
    else:
        span = f"{min(at.edges):.2g} to {max(at.edges):.2g}" if len(set(at.edges)) > 1 else "the same"
        lines["edge"] = f"of divergence {at.edge:.2g} ({span} in {len(at.edges)} of {NUM_PROBES} probes)"
    if found.rate is None:
        lines["answer"] = f"cannot tell: {'; '.join(found.reasons)}"
    else:
        assert found.basin is not None
        low, high = found.basin
        ends = f"{'' if found.closed[0] else '< '}{low:g} .. {high:g}{'' if found.closed[1] else ' <'}"
        lines["basin"] = f"{ends} ({found.decades:.1f} decades; results within 5 % or noise of the best one)"
        lines["rate"] = f"{found.rate:g} for {found.steps} steps"
        lines["confidence"] = "; ".join([found.confidence, *found.reasons])
    assert found.steps is not None
    equal = gradients / found.steps
    lines["cost"] = (
        f"{gradients:,} gradients, as many as {equal:.1f} runs of {found.steps} steps; {at.loss_evaluations} losses"
    )
    for label, text in lines.items():
        out.print(f"{label:<13}{text}", soft_wrap=True)
