"""Cyclical schedules: triangles, and the one cycle of super-convergence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError, unknown
from fallline.core.schedule import Schedule
from fallline.schedules.basic import cosine_restarts
from fallline.schedules.checks import fraction, whole

__all__ = ["one_cycle", "triangular"]


@dataclass(frozen=True)
class triangular(Schedule):
    """Up from ``floor`` to 1 in ``half`` steps and down again, for ever; each cycle's height is ``shrink`` times the last one's.

    floor + (1 - floor) shrink^k (1 - |(t - 1)/half - 2k - 1|) in cycle k = 0, 1, ... (Smith, arXiv:1506.01186, section 3.1;
    shrink = 0.5 is "triangular2").
    """

    half: int
    floor: float = 0.0
    shrink: float = 1.0

    def __post_init__(self) -> None:
        whole("triangular", "half", self.half)
        fraction("triangular", "floor", self.floor)
        fraction("triangular", "shrink", self.shrink)

    def value(self, t: int) -> float:
        cycle = (t - 1) // (2 * self.half)
        height = 1 - abs((t - 1) / self.half - 2 * cycle - 1)
        return self.floor + (1 - self.floor) * self.shrink**cycle * height


@dataclass(frozen=True)
class one_cycle(Schedule):
    """One rise from ``start`` to 1 over the share ``rise`` of the steps, then one fall to ``end`` (Smith & Topin, arXiv:1708.07120).

    As in torch's OneCycleLR, step 1 runs at ``start``, step ``rise * num_steps`` at 1 and the last step at ``end``; the ramps are
    half cosines, or linear as in the paper.
    """

    num_steps: int
    rise: float = 0.3
    start: float = 0.04
    end: float = 4e-6
    shape: Literal["cosine", "linear"] = "cosine"

    def __post_init__(self) -> None:
        whole("one_cycle", "num_steps", self.num_steps, least=2)
        for name in ("rise", "start", "end"):
            fraction("one_cycle", name, getattr(self, name))
        if self.shape not in ("cosine", "linear"):
            raise unknown("shape of one_cycle", str(self.shape), ("cosine", "linear"))
        if not 1 < self.rise * self.num_steps < self.num_steps:
            raise InvalidValueError(
                f"{self!r} has no rise or no fall. Expected a rise of more than one step and less than all. "
                f"Write for example one_cycle(1000, rise=0.3)."
            )

    @property
    def length(self) -> float:
        return self.num_steps

    def value(self, t: int) -> float:
        peak = self.rise * self.num_steps - 1
        if t - 1 <= peak:
            return self._between(self.start, 1.0, (t - 1) / peak)
        return self._between(1.0, self.end, (t - 1 - peak) / (self.num_steps - 1 - peak))

    def _between(self, first: float, last: float, done: float) -> float:
        share = done if self.shape == "linear" else 0.5 * (1 - math.cos(math.pi * done))
        return first + (last - first) * share


@claim(
    "triangular",
    "the rate moves between two bounds, and both are reached in every cycle",
    "lecture, slide 'Cyclical schemes'",
)
def bounds(lab):
    rate = triangular(50, floor=0.1)
    cycle = [rate(t) for t in range(101, 201)]
    yield lab.equal([min(cycle), max(cycle), rate(151)], [0.1, 1.0, 1.0])
    yield lab.equal(triangular(50, shrink=0.5)(151), 0.5)


@claim(
    "cosine_restarts",
    "the rate restarts at its peak after each cosine, and cycles grow",
    "lecture, slide 'Cyclical schemes'; arXiv:1608.03983, eq. 5",
)
def restarts(lab):
    rate = cosine_restarts(100, growth=2.0)
    yield lab.equal([rate(1), rate(51), rate(101), rate(201), rate(301)], [1.0, 0.5, 1.0, 0.5, 1.0])


@claim(
    "one_cycle",
    "one rise, one fall, and it ends orders of magnitude below its start",
    "arXiv:1708.07120, 1cycle policy",
)
def one_of_each(lab):
    rate = [one_cycle(1000)(t) for t in range(1, 1001)]
    top = rate.index(max(rate))
    yield lab.equal([rate[0], rate[top], float(top)], [0.04, 1.0, 299.0])
    yield lab.less(rate[-1], rate[0] / 1000)
    rising = [a < b for a, b in zip(rate, rate[1:], strict=False)]
    yield lab.equal(float(rising == [True] * top + [False] * (999 - top)), 1.0)
