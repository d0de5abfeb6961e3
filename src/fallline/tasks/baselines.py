"""What tuned AdamW and Nesterov reach on the tasks that come with fallline: data, each with the command that made it."""

from __future__ import annotations

import functools
import statistics
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Baseline", "baselines"]

FILE = Path(__file__).parent / "baselines.toml"
METHODS = ("adamw", "nesterov")


@dataclass(frozen=True)
class Baseline:
    """A method tuned on a task: the best rate of 8, and its final metric after ``steps`` steps for every seed, None where it diverged.

    ``at_the_edge``: no rate beyond the best one was tried, so that a better one may lie there.
    """

    method: str
    lr: float
    steps: int
    seeds: tuple[int, ...]
    finals: tuple[float | None, ...]
    at_the_edge: bool
    command: str
    date: str

    def __str__(self) -> str:
        known = [x for x in self.finals if x is not None]
        lost = len(self.finals) - len(known)
        spread = f"{statistics.median(known):.4g} ({min(known):.4g} to {max(known):.4g})" if known else "no result"
        parts = [f"{self.method} lr {self.lr:.3g}: {spread} on {len(known)} seeds"]
        parts += [f"{lost} diverged"] if lost else []
        parts += ["at the edge of its range"] if self.at_the_edge else []
        return ", ".join(parts)


def baselines(task: str) -> tuple[Baseline, ...]:
    """Those of a task, () where there are none."""
    return _all().get(task, ())


@functools.cache
def _all() -> Mapping[str, tuple[Baseline, ...]]:
    found = {}
    for task, entry in tomllib.loads(FILE.read_text(encoding="utf-8")).items():
        found[task] = tuple(
            Baseline(
                method=method,
                lr=entry[method]["lr"],
                steps=entry["steps"],
                seeds=tuple(entry["seeds"]),
                finals=tuple(x if isinstance(x, float | int) else None for x in entry[method]["finals"]),
                at_the_edge=entry[method]["at_the_edge"],
                command=entry["command"],
                date=entry["date"],
            )
            for method in METHODS
        )
    return found
