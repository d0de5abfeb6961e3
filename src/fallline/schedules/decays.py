"""Decays beyond those of ``basic``: at given steps, polynomial, inverse square root, and one minus a square root."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.core.schedule import Schedule
from fallline.schedules.basic import cosine, exponential
from fallline.schedules.checks import fraction, positive, whole

__all__ = ["inverse_sqrt", "multi_step", "one_minus_sqrt", "polynomial"]


@dataclass(frozen=True)
class multi_step(Schedule):
    """Multiply by ``factor`` after each of the steps ``after``: factor^(number of those below t)."""

    after: tuple[int, ...]
    factor: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "after", tuple(self.after))
        for step in self.after:
            whole("multi_step", "after", step)
        if not self.after or sorted(set(self.after)) != list(self.after):
            raise InvalidValueError(
                f"multi_step got after={self.after!r}. Expected rising step numbers, at least one. "
                f"Write for example multi_step((3000, 6000), 0.1)."
            )

    def value(self, t: int) -> float:
        return self.factor ** bisect_left(self.after, t)


@dataclass(frozen=True)
class polynomial(Schedule):
    """From 1 to ``floor``: floor + (1 - floor) (1 - (t - 1)/T)^power. With power 1 it is linear decay, or a linear cooldown."""

    num_steps: int
    power: float = 1.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        whole("polynomial", "num_steps", self.num_steps)
        positive("polynomial", "power", self.power)
        fraction("polynomial", "floor", self.floor)

    @property
    def length(self) -> float:
        return self.num_steps

    def value(self, t: int) -> float:
        return self.floor + (1 - self.floor) * (1 - (t - 1) / self.num_steps) ** self.power


@dataclass(frozen=True)
class one_minus_sqrt(Schedule):
    """From 1 to ``floor``: floor + (1 - floor) (1 - sqrt((t - 1)/T)), a cooldown (Hägele et al., arXiv:2405.18392)."""

    num_steps: int
    floor: float = 0.0

    def __post_init__(self) -> None:
        whole("one_minus_sqrt", "num_steps", self.num_steps)
        fraction("one_minus_sqrt", "floor", self.floor)

    @property
    def length(self) -> float:
        return self.num_steps

    def value(self, t: int) -> float:
        return self.floor + (1 - self.floor) * (1 - math.sqrt((t - 1) / self.num_steps))


@dataclass(frozen=True)
class inverse_sqrt(Schedule):
    """sqrt(s / (s + t - 1)) with ``scale`` s: 1/sqrt(t) for s = 1. After ``warmup(s)`` it is the Transformer's schedule
    (Vaswani et al., arXiv:1706.03762, section 5.3). It never ends."""

    scale: float = 1.0

    def __post_init__(self) -> None:
        positive("inverse_sqrt", "scale", self.scale)

    def value(self, t: int) -> float:
        return math.sqrt(self.scale / (self.scale + t - 1))


# The lecture's decay schemes, and what follows from their formulae.
@claim(
    "multi_step", "step decay divides the rate at fixed steps and holds it in between", "lecture, slide 'Decay schemes'"
)
def stairs(lab):
    decay = multi_step((30, 60), 0.1)
    yield lab.equal([decay(t) for t in (1, 30, 31, 60, 61, 1000)], [1, 1, 0.1, 0.1, 0.01, 0.01])


@claim(
    "exponential",
    "exponential decay divides the rate by the same factor at every step",
    "lecture, slide 'Decay schemes'",
)
def constant_ratio(lab):
    rate = exponential(0.99)
    yield lab.close([rate(t + 1) / rate(t) for t in (1, 10, 500)], 0.99)


@claim(
    "polynomial",
    "the rates of linear decay sum to half of those of the peak's",
    "arXiv:2310.07831, linear decay schedule",
)
def half(lab):
    n = 1000
    yield lab.ratio(sum(polynomial(n)(t) for t in range(1, n + 1)), n, equals=0.5, rtol=2 / n)
    yield lab.less(abs(polynomial(n)(n // 2 + 1) - cosine(n)(n // 2 + 1)), 1e-12)  # and both are half-way at half time


@claim("inverse_sqrt", "the rate falls with the inverse root of the step", "arXiv:1706.03762, section 5.3, eq. 3")
def root(lab):
    rate = inverse_sqrt(4000)
    yield lab.ratio(rate(1), rate(1 + 3 * 4000), equals=2.0)
    yield lab.equal(inverse_sqrt()(49), 1 / 7)
