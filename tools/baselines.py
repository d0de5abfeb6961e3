"""Tune AdamW and Nesterov on the tasks, and write what they reach to src/fallline/tasks/baselines.toml.

    python tools/baselines.py                    every task but those in TOO_LONG
    python tools/baselines.py siren-image ...    these only; entries of the others stay as they are

Each is one study, `fallline compare TASK --methods adamw,nesterov --budget quick --seeds 5`, which the file names beside its date: 8 rates
at 30 % of the task's steps, then the best one on five fresh seeds. Tasks in TOO_LONG are left out for their cost, and the file says so.
"""

from __future__ import annotations

import datetime
import json
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

import torch

from fallline.lab import BASELINES, make_spec, run_study
from fallline.tasks import TASKS

FILE = Path(__file__).parents[1] / "src" / "fallline" / "tasks" / "baselines.toml"
BUDGET, NUM_SEEDS = "quick", 5
TOO_LONG = ("fashion-cnn", "fashion-nfnet", "fashion-noisy")
HEAD = """# What tuned AdamW and Nesterov reach on the tasks: the best rate of 8 at 30 % of the task's steps, then its final metric on five
# fresh seeds. Written by `python tools/baselines.py`; shown by `fallline tasks NAME`. Every entry names the command that repeats it.
# Left out for their cost, estimated at one to several minutes of a processor: {left_out}.
# Not measured yet: {missing}.
"""


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    entries = tomllib.loads(FILE.read_text()) if FILE.exists() else {}
    for name in names or [name for name in TASKS if name not in TOO_LONG]:
        began = time.monotonic()
        entries[name] = measured(TASKS[name].name)
        FILE.write_text(text(entries))
        finals = {method: entries[name][method]["finals"] for method in BASELINES}
        print(f"{name}: {finals} ({time.monotonic() - began:.0f} s)", flush=True)


def measured(name: str) -> dict[str, Any]:
    spec = make_spec([name], BASELINES, BUDGET, NUM_SEEDS, {})
    with tempfile.TemporaryDirectory() as folder:
        results = run_study(spec, Path(folder), 1)
    (task,) = results["tasks"]
    entry = {
        "command": spec.command,
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__.partition("+")[0],
        "steps": task["steps"],
        "seeds": list(spec.seeds),
    }
    return entry | {method["name"]: row(method) for method in task["methods"] if method["name"] in BASELINES}


def row(method: dict[str, Any]) -> dict[str, Any]:
    best = method["best"]
    finals = ["diverged" if run["final"] is None else float(f"{run['final']:.5g}") for run in method["runs"]]
    return {"lr": best["hyper"]["lr"], "at_the_edge": bool(best["edges"]), "finals": finals}


def text(entries: dict[str, Any]) -> str:
    """TOML, in the order of the registry."""
    missing = [name for name in TASKS if name not in entries and name not in TOO_LONG]
    lines = [HEAD.format(left_out=", ".join(TOO_LONG), missing=", ".join(missing) or "none")]
    for name in (name for name in TASKS if name in entries):
        entry = entries[name]
        tables = {key: value for key, value in entry.items() if isinstance(value, dict)}
        lines.append(f"[{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in entry.items() if key not in tables]
        for method, values in tables.items():
            inside = ", ".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
            lines.append(f"{method} = {{ {inside} }}")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
