"""A study's runs as rows: one for every run, and one for every point of every learning curve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["curve_rows", "each_method", "run_rows"]

Row = dict[str, Any]


def each_method(results: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Every task with every one of its methods."""
    for task in results["tasks"]:
        for method in task["methods"]:
            yield task, method


def run_rows(results: Mapping[str, Any]) -> list[Row]:
    """Every run, with its numeric hyperparameters in columns of their own, as ``hyper.lr``. ``kind``: trial, run (on a fresh
    seed), default or transfer (the method as it comes, and at AdamW's best learning rate)."""
    rows = []
    for t, m in each_method(results):
        extras = {kind: [r] for kind in ("default", "transfer") if (r := (m.get("tunability") or {}).get(kind))}
        for kind, runs in {"trial": m["trials"], "run": m["runs"], **extras}.items():
            for r in runs:
                hyper = r.get("hyper") or m["best"]["hyper"]
                numbers = {
                    f"hyper.{k}": float(v)
                    for k, v in hyper.items()
                    if isinstance(v, int | float) and not isinstance(v, bool)
                }
                rows.append(
                    {
                        "task": t["name"], "method": m["name"], "kind": kind, "run": r["run"],
                        "seed": r.get("seed", results["study"]["tuning_seed"]), "status": r["status"], "final": r["final"],
                        "train_seconds": r["train_seconds"], **numbers, "command": r["command"],
                    }
                )  # fmt: skip
    return rows


def curve_rows(results: Mapping[str, Any]) -> list[Row]:
    """The learning curves of the runs on fresh seeds; a run that diverged ends early."""
    return [
        {"task": t["name"], "method": m["name"], "run": r["run"], "seed": r["seed"], "step": step, "metric": value, "train_loss": loss}
        for t, m in each_method(results)
        for r in m["runs"]
        for step, value, loss in zip(r["steps"], r["metric"], r["train_loss"], strict=False)
    ]  # fmt: skip
