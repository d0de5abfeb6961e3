"""Any schedule: straight lines between given points, or one value for each step."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.core.schedule import Schedule
from fallline.schedules.checks import positive

__all__ = ["piecewise", "tabulated"]


@dataclass(frozen=True)
class piecewise(Schedule):
    """Straight lines between points (step, value), and level outside: ``piecewise((1, 0.0), (100, 1.0), (1000, 0.1))``."""

    points: tuple[tuple[float, float], ...]

    def __init__(self, *points: tuple[float, float]) -> None:
        object.__setattr__(self, "points", tuple(tuple(p) if isinstance(p, tuple | list) else p for p in points))
        pairs = all(isinstance(p, tuple) and len(p) == 2 and all(map(_is_finite, p)) for p in self.points)
        if (
            not pairs
            or len(points) < 2
            or any(a[0] >= b[0] for a, b in zip(self.points, self.points[1:], strict=False))
        ):
            raise InvalidValueError(
                f"piecewise got {', '.join(map(repr, points)) or 'no points'}. Expected at least two points (step, value) whose "
                f"steps rise. Write for example piecewise((1, 0.0), (100, 1.0), (1000, 0.1))."
            )
        positive("piecewise", "step", self.points[0][0])

    @property
    def length(self) -> float:
        return int(self.points[-1][0])

    def value(self, t: int) -> float:
        after = bisect_right([step for step, _ in self.points], t)
        if after in (0, len(self.points)):
            return self.points[min(after, len(self.points) - 1)][1]
        (t0, v0), (t1, v1) = self.points[after - 1], self.points[after]
        return v0 + (v1 - v0) * (t - t0) / (t1 - t0)

    def __repr__(self) -> str:
        return f"piecewise({', '.join(map(repr, self.points))})"


@dataclass(frozen=True)
class tabulated(Schedule):
    """One value for each step, given as a sequence: ``tabulated([1.0, 0.5, 0.25])``."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        values = tuple(self.values) if isinstance(self.values, Iterable) else ()
        if not values or not all(map(_is_finite, values)):
            raise InvalidValueError(
                f"tabulated got {self.values!r}. Expected a finite number for each step, at least one. Write for example "
                f"tabulated([1.0, 0.5])."
            )
        object.__setattr__(self, "values", tuple(float(v) for v in values))

    @property
    def length(self) -> float:
        return len(self.values)

    def value(self, t: int) -> float:
        return self.values[t - 1]


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@claim("piecewise", "warm-up and linear decay are its special cases with three points", "lecture, slide 'Warm-up'")
def special_cases(lab):
    from fallline.schedules.basic import warmup
    from fallline.schedules.decays import polynomial

    lines = piecewise((1, 0.01), (100, 1.0), (101, 1.0), (200, 0.01))
    joined = warmup(100) >> polynomial(100)
    yield lab.close([lines(t) for t in range(1, 201)], [joined(t) for t in range(1, 201)])
