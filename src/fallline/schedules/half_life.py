"""A decay rate that grows such that its half-life grows linearly: AdEMAMix's warm-up of b3."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fallline.core.errors import InvalidValueError
from fallline.core.schedule import Schedule

__all__ = ["half_life"]


@dataclass(frozen=True)
class half_life(Schedule):
    """From ``start`` to ``end``, 1/log b moving linearly over ``num_steps`` (Pagliardini et al., arXiv:2409.03137, section 3)."""

    start: float
    end: float
    num_steps: int

    def __post_init__(self) -> None:
        if not (0 < self.start < 1 and 0 < self.end < 1 and self.num_steps >= 1):
            raise InvalidValueError(
                f"{self!r} has no half-lives between its ends. Expected rates in (0, 1) and num_steps >= 1. "
                f"Write for example half_life(0.9, 0.9999, 10_000)."
            )

    @property
    def length(self) -> float:
        return self.num_steps

    def value(self, t: int) -> float:
        done = t / self.num_steps
        return math.exp(1 / ((1 - done) / math.log(self.start) + done / math.log(self.end)))
