"""Constant, linear warm-up, step, exponential, cosine, and cosine with warm restarts.

Every schedule is 1 at its peak. With ``t`` counted from 1, step t of a decay of length T sees the fraction (t - 1)/T, so
the first step runs at the peak and step T is the last one above the floor; torch's LRScheduler counts the same way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fallline.core.errors import InvalidValueError
from fallline.core.schedule import Schedule

__all__ = ["constant", "cosine", "cosine_restarts", "exponential", "step_decay", "warmup"]


@dataclass(frozen=True)
class _Finite(Schedule):
    num_steps: float

    def __post_init__(self) -> None:
        whole = self.num_steps == math.inf or (isinstance(self.num_steps, int) and not isinstance(self.num_steps, bool))
        if not whole or self.num_steps < 1:
            raise InvalidValueError(
                f"{type(self).__name__}({self.num_steps!r}) has no length. Expected a whole number of steps, at least 1. "
                f"Write for example {type(self).__name__}(1000)."
            )

    @property
    def length(self) -> float:
        return self.num_steps


@dataclass(frozen=True)
class constant(_Finite):
    """1 at every step; endless, or ``num_steps`` long when something follows."""

    num_steps: float = math.inf

    def value(self, t: int) -> float:
        return 1.0

    def __repr__(self) -> str:
        return "constant()" if math.isinf(self.num_steps) else f"constant(num_steps={self.num_steps!r})"


@dataclass(frozen=True)
class warmup(_Finite):
    """Linear warm-up: t / num_steps (Goyal et al., arXiv:1706.02677, section 2.2)."""

    num_steps: int

    def value(self, t: int) -> float:
        return t / self.num_steps


@dataclass(frozen=True)
class cosine(_Finite):
    """Cosine decay from 1 to ``floor``: floor + (1 - floor) (1 + cos(pi (t - 1)/T)) / 2 (arXiv:1608.03983, eq. 5)."""

    num_steps: int
    floor: float = 0.0

    def value(self, t: int) -> float:
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * (t - 1) / self.num_steps))


@dataclass(frozen=True)
class cosine_restarts(Schedule):
    """SGDR: cosine decays of length ``first``, ``first * growth``, ... each restarting at 1 (arXiv:1608.03983, sec. 3)."""

    first: int
    growth: float = 2.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.first < 1 or self.growth < 1:
            raise InvalidValueError(
                f"{self!r} would shrink away. Expected first >= 1 step and growth >= 1. Write cosine_restarts(100, 2)."
            )

    def value(self, t: int) -> float:
        elapsed, period = float(t - 1), float(self.first)
        while elapsed >= period:
            elapsed, period = elapsed - period, period * self.growth
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * elapsed / period))


@dataclass(frozen=True)
class step_decay(Schedule):
    """Multiply by ``factor`` every ``every`` steps: factor^floor((t - 1)/every)."""

    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InvalidValueError(f"{self!r} never takes a step. Expected every >= 1. Write step_decay(1000, 0.1).")

    def value(self, t: int) -> float:
        return self.factor ** ((t - 1) // self.every)


@dataclass(frozen=True)
class exponential(Schedule):
    """Exponential decay: factor^(t - 1)."""

    factor: float

    def __post_init__(self) -> None:
        if not 0 < self.factor <= 1:
            raise InvalidValueError(f"{self!r} does not decay. Expected a factor in (0, 1]. Write exponential(0.999).")

    def value(self, t: int) -> float:
        return self.factor ** (t - 1)
