"""A schedule: a pure function of the step ``t`` (from 1), joined with ``>>``, scaled with ``*``."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from fallline.core.errors import InvalidValueError

__all__ = ["Joined", "Scaled", "Schedule"]


class Schedule(ABC):
    """A hyperparameter as a function of the step. Subclasses are frozen dataclasses that define ``value(t)``.

    ``length`` is the number of steps until the schedule has run its course; afterwards it holds its last value, unless
    another schedule follows: ``3e-4 * (warmup(200) >> cosine(9_800))``.
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

    def __mul__(self, factor: float) -> Schedule:
        if isinstance(factor, bool) or not isinstance(factor, int | float):
            return NotImplemented
        return Scaled(float(factor), self)

    __rmul__ = __mul__

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
        return f"{self.factor:g} * ({self.schedule!r})"


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
