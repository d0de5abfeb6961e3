"""What a watch has seen: numbers by name and step, and what went wrong first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

__all__ = ["Record", "Series", "Trouble"]


@dataclass(frozen=True)
class Series:
    """One quantity over the run: the steps at which it was taken, and its values."""

    steps: tuple[int, ...] = ()
    values: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def last(self) -> float:
        """The latest value; NaN if there is none."""
        return self.values[-1] if self.values else math.nan

    def late(self, share: float = 0.5) -> list[float]:
        """The finite values of the last ``share`` of the run, by step."""
        if not self.steps:
            return []
        begin = self.steps[-1] - share * (self.steps[-1] - self.steps[0])
        return [v for s, v in zip(self.steps, self.values, strict=True) if s >= begin and math.isfinite(v)]

    def late_median(self, share: float = 0.5) -> float:
        """The median over the last ``share`` of the run; NaN if there is none."""
        found = self.late(share)
        return median(found) if found else math.nan


@dataclass(frozen=True)
class Trouble:
    """The first thing that went wrong."""

    step: int
    what: str  # "the loss is not finite", "the loss is above 3 times the first one"
    where: tuple[
        str, ...
    ] = ()  # parameters with gradients that are not finite, or the first module with such an output
    batch: int = 0  # the number of the batch, counted from 1

    @property
    def text(self) -> str:
        """In a sentence."""
        first = f", first in {', '.join(self.where[:3])}" if self.where else ""
        return f"step {self.step} (batch {self.batch}): {self.what}{first}"


@dataclass
class Record:
    """Series by name; those of single tensors are called ``kind/tensor``, as ``update_ratio/0.weight``."""

    batch_size: int = 0
    steps: int = 0
    about: dict[str, str] = field(default_factory=dict)  # of the optimizer: what its threshold is for
    trouble: Trouble | None = None
    skipped: int = 0  # steps that the optimizer refused
    _values: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Note values of a step."""
        for name, value in values.items():
            steps, kept = self._values.setdefault(name, ([], []))
            steps.append(step)
            kept.append(float(value))

    def series(self, name: str) -> Series:
        """A quantity by name; empty if it was never taken."""
        steps, values = self._values.get(name, ((), ()))
        return Series(tuple(steps), tuple(values))

    def tensors(self, kind: str) -> dict[str, Series]:
        """The series of a kind by tensor."""
        names = [name for name in self._values if name.startswith(f"{kind}/")]
        return {name.partition("/")[2]: self.series(name) for name in names}

    @property
    def names(self) -> list[str]:
        return list(self._values)
