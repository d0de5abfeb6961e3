"""A schedule: a pure function of the step ``t`` (from 1), joined with ``>>``, scaled with ``*``, added with ``+``."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from fallline.core.errors import InvalidValueError

__all__ = ["Joined", "Product", "Scaled", "Schedule", "Shifted", "Sum"]


class Schedule(ABC):
    """A hyperparameter as a function of the step. Subclasses are frozen dataclasses that define ``value(t)``.

    ``length`` is the number of steps until the schedule has run its course; afterwards it holds its last value, unless
    another schedule follows: ``3e-4 * (warmup(200) >> cosine(9_800))``. Sums and products, of schedules or with numbers, run
    both at once: ``0.9 * cosine(1_000) + 0.1``.
    """

    @property
    def length(self) -> float:
        """Steps until the end; infinite for a schedule that never ends."""
        return math.inf

    @abstractmethod
    def value(self, t: int) -> float:
        """The value at step ``t``, for 1 <= t <= length."""

    def __call__(self, t: int) -> float:
        """The value at step ``t``, counted from 1; after the end, the last value."""
        if t < 1:
            raise InvalidValueError(f"A schedule was asked for step {t}. Steps count from 1. Pass t >= 1.")
        return float(self.value(t if t < self.length else int(self.length)))

    def __mul__(self, factor: float | Schedule) -> Schedule:
        if isinstance(factor, Schedule):
            return Product(self, factor)
        return Scaled(float(factor), self) if _is_number(factor) else NotImplemented

    __rmul__ = __mul__

    def __add__(self, other: float | Schedule) -> Schedule:
        if isinstance(other, Schedule):
            return Sum(self, other)
        return Shifted(float(other), self) if _is_number(other) else NotImplemented

    __radd__ = __add__

    def __rshift__(self, then: Schedule) -> Schedule:
        if not isinstance(then, Schedule):
            return NotImplemented
        return Joined(self, then)


@dataclass(frozen=True)
class Scaled(Schedule):
    """``factor * schedule``."""

    factor: float
    schedule: Schedule

    @property
    def length(self) -> float:
        return self.schedule.length

    def value(self, t: int) -> float:
        return self.factor * self.schedule.value(t)

    def __repr__(self) -> str:
        return f"{self.factor!r} * ({self.schedule!r})"


@dataclass(frozen=True)
class Shifted(Schedule):
    """``offset + schedule``."""

    offset: float
    schedule: Schedule

    @property
    def length(self) -> float:
        return self.schedule.length

    def value(self, t: int) -> float:
        return self.offset + self.schedule.value(t)

    def __repr__(self) -> str:
        return f"{self.offset!r} + ({self.schedule!r})"


@dataclass(frozen=True)
class _Both(Schedule):
    first: Schedule
    second: Schedule

    @property
    def length(self) -> float:
        return max(self.first.length, self.second.length)


@dataclass(frozen=True)
class Sum(_Both):
    """``first + second``, both from step 1; one that has ended holds its last value."""

    def value(self, t: int) -> float:
        return self.first(t) + self.second(t)

    def __repr__(self) -> str:
        return f"({self.first!r}) + ({self.second!r})"


@dataclass(frozen=True)
class Product(_Both):
    """``first * second``, both from step 1; one that has ended holds its last value."""

    def value(self, t: int) -> float:
        return self.first(t) * self.second(t)

    def __repr__(self) -> str:
        return f"({self.first!r}) * ({self.second!r})"


@dataclass(frozen=True)
class Joined(Schedule):
    """``first >> second``: the first until its length is over, then the second from its own step 1."""

    first: Schedule
    second: Schedule

    def __post_init__(self) -> None:
        if math.isinf(self.first.length):
            raise InvalidValueError(
                f"Nothing can follow {self.first!r}: it never ends. Expected a schedule with a length before >>. "
                f"Give it one, as in constant(100) >> cosine(900)."
            )

    @property
    def length(self) -> float:
        return self.first.length + self.second.length

    def value(self, t: int) -> float:
        if t <= self.first.length:
            return self.first.value(t)
        return self.second.value(t - int(self.first.length))

    def __repr__(self) -> str:
        return f"{self.first!r} >> {self.second!r}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
