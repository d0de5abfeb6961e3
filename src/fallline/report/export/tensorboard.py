"""Event files for TensorBoard: a folder for every run on a fresh seed, ``TASK/METHOD/seed-1``, and one for a method's trials."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fallline.report.export.needs import need
from fallline.report.export.rows import each_method

__all__ = ["write_tensorboard"]


def write_tensorboard(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write them under ``folder/tensorboard``, in place of an earlier export; returns that folder.

    The curves are those of the fresh seeds: metric and training loss against the step. The trials' finals stand against the number of
    the design point. Raises FalllineError without tensorboard.
    """
    need("tensorboard", "tensorboard")
    root = folder / "tensorboard"
    for t, m in each_method(results):
        metric = f"{t['name']}/{t['metric']['name']}"
        home = root / t["name"] / m["name"]
        for r in m["runs"]:
            with _writer(home / f"seed-{r['seed']}") as writer:
                for step, value, loss in zip(r["steps"], r["metric"], r["train_loss"], strict=False):
                    for tag, x in ((metric, value), (f"{t['name']}/training loss", loss)):
                        if x is not None:
                            writer.add_scalar(tag, x, step)
                writer.add_text("command", r["command"])
        if m["trials"]:
            with _writer(home / "trials") as writer:
                for r in m["trials"]:
                    if r["final"] is not None:
                        writer.add_scalar(f"trials/{t['name']}/{t['metric']['name']}", r["final"], r["point"])
                    for name, value in r["hyper"].items():
                        writer.add_scalar(f"trials/{t['name']}/{name}", value, r["point"])
    return [root]


@contextmanager
def _writer(folder: Path) -> Iterator[Any]:
    """A writer of one run, whose earlier events go first: TensorBoard would show both."""
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    writer = need("torch.utils.tensorboard", "tensorboard").SummaryWriter(folder)
    try:
        yield writer
    finally:
        writer.close()
