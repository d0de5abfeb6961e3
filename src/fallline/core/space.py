"""Search spaces: where a hyperparameter may lie, mapped from one coordinate of the unit cube.

A design point is a point of the unit cube; every method maps the same points into its own space, so that all methods
are tuned with common random numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fallline.core.errors import InvalidValueError

__all__ = ["Range", "Space", "linear", "log", "one_minus_log"]

Scale = Literal["log", "linear", "one_minus_log"]


@dataclass(frozen=True)
class Range:
    """An interval ``[low, high]`` and the scale on which it is uniform.

    ``log``: log x is uniform. ``one_minus_log``: log(1 - x) is uniform, the natural scale of momenta and decay rates.
    """

    low: float
    high: float
    scale: Scale = "log"

    def __post_init__(self) -> None:
        finite = math.isfinite(self.low) and math.isfinite(self.high)
        if not finite or self.low >= self.high:
            raise InvalidValueError(
                f"A range from {self.low:g} to {self.high:g} is empty. The lower end must be a finite number below the "
                f"upper end. Write it as 1e-4..1e-1."
            )
        if self.scale == "log" and self.low <= 0:
            raise InvalidValueError(
                f"A logarithmic range cannot start at {self.low:g}. Its ends must be positive. "
                f"Use a positive lower end, or write 'linear {self.low:g}..{self.high:g}'."
            )
        if self.scale == "one_minus_log" and self.high >= 1:
            raise InvalidValueError(
                f"A range on the scale of 1 - x cannot reach {self.high:g}. Its ends must lie below 1. "
                f"Use an upper end such as 0.999."
            )

    def at(self, u: float) -> float:
        """The value at unit coordinate ``u`` in [0, 1]; increasing in ``u``."""
        low, high = self._forward(self.low), self._forward(self.high)
        return self._backward(low + (high - low) * u)

    def widened(self, side: Literal["low", "high"], factor: float = 10.0) -> Range:
        """The same range with one end moved outwards by ``factor`` (a decade by default) on its own scale."""
        step = math.log(factor) if self.scale != "linear" else self.high - self.low
        if side == "low":
            return Range(_round(self._backward(self._forward(self.low) - step)), self.high, self.scale)
        return Range(self.low, _round(self._backward(self._forward(self.high) + step)), self.scale)

    def _forward(self, x: float) -> float:
        if self.scale == "log":
            return math.log(x)
        return -math.log1p(-x) if self.scale == "one_minus_log" else x

    def _backward(self, z: float) -> float:
        if self.scale == "log":
            return math.exp(z)
        return -math.expm1(-z) if self.scale == "one_minus_log" else z

    def __str__(self) -> str:
        prefix = "" if self.scale == "log" else f"{self.scale} "
        return f"{prefix}{self.low:g}..{self.high:g}"

    @classmethod
    def parse(cls, text: str) -> Range:
        """Read ``1e-4..1e-1`` (logarithmic), ``linear 0..1`` or ``one_minus_log 0.9..0.999``."""
        match = re.fullmatch(r"\s*(?:(log|linear|one_minus_log)\s+)?(\S+?)\s*\.\.\s*(\S+)\s*", text)
        try:
            if match is None:
                raise ValueError
            low, high = float(match[2]), float(match[3])
        except ValueError:
            raise InvalidValueError(
                f"{text!r} is not a range. Expected LOW..HIGH, as in 1e-4..1e-1, optionally after 'log', 'linear' or "
                f"'one_minus_log'. Write for example lr=1e-4..1e-1."
            ) from None
        return cls(low, high, match[1] or "log")  # type: ignore[arg-type]


Space = Mapping[str, Range]
"""Hyperparameter name -> range, most important first: small budgets tune only the first entries."""


def log(low: float, high: float) -> Range:
    """A range uniform in log x."""
    return Range(low, high, "log")


def linear(low: float, high: float) -> Range:
    """A range uniform in x."""
    return Range(low, high, "linear")


def one_minus_log(low: float, high: float) -> Range:
    """A range uniform in log(1 - x): for momenta and decay rates."""
    return Range(low, high, "one_minus_log")


def _round(x: float) -> float:
    return float(f"{x:.6g}")
