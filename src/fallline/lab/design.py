"""The declared design: the same scrambled Sobol points, by index, for every method, mapped into its own search space."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from scipy.stats import qmc

from fallline.core.space import Range

__all__ = ["BUDGETS", "Budget", "Edge", "edges", "point", "setting", "tuned_names", "widenings"]

_DIMENSIONS, _SCRAMBLE = 8, 20240917  # fixed for ever: they define the design


@dataclass(frozen=True)
class Budget:
    """How much tuning: trials per method, the share of the task's steps, and how many hyperparameters are tuned."""

    name: str
    trials: int
    step_fraction: float
    num_tuned: int


BUDGETS = {
    "quick": Budget("quick", 8, 0.3, 1),
    "standard": Budget("standard", 16, 1.0, 2),
    "thorough": Budget("thorough", 32, 1.0, 3),
}
"""Below ten trials only the learning rate can be tuned; each further hyperparameter asks for about ten more. The numbers of
trials are powers of two, which keep the points of a Sobol sequence balanced."""


@cache
def _points() -> np.ndarray:
    return qmc.Sobol(_DIMENSIONS, scramble=True, rng=np.random.default_rng(_SCRAMBLE)).random_base2(8)


def point(index: int) -> tuple[float, ...]:
    """Point ``index`` of the design in the unit cube."""
    return tuple(float(x) for x in _points()[index])


def tuned_names(space: Mapping[str, Range], num_tuned: int) -> tuple[str, ...]:
    """The hyperparameters a budget tunes: the first entries of the space, which stand in order of importance."""
    return tuple(space)[:num_tuned]


def setting(space: Mapping[str, Range], num_tuned: int, index: int) -> dict[str, float]:
    """Design point ``index`` as hyperparameters of a method."""
    return {
        n: float(f"{space[n].at(u):.6g}") for n, u in zip(tuned_names(space, num_tuned), point(index), strict=False)
    }


@dataclass(frozen=True)
class Edge:
    """A best value with no tried value beyond it: the search space may have cut off a better one."""

    name: str
    side: Literal["low", "high"]
    value: float
    widened: Range


def widenings(space: Range, width: float) -> float:
    """A distance in the unit cube, measured in the steps by which ``Range.widened`` moves an end: decades on logarithmic scales."""
    if space.scale == "log":
        return width * math.log10(space.high / space.low)
    return width * math.log10((1 - space.low) / (1 - space.high)) if space.scale == "one_minus_log" else width


def edges(space: Mapping[str, Range], tried: Sequence[Mapping[str, float]], best: Mapping[str, float]) -> list[Edge]:
    """The hyperparameters of ``best`` that no tried point lies beyond, on the side where that is so."""
    found = []
    for name, value in best.items():
        values = [t[name] for t in tried]
        for side, extreme in (("low", min(values)), ("high", max(values))):
            if value == extreme and len(set(values)) > 1:
                found.append(Edge(name, side, value, space[name].widened(side)))  # type: ignore[arg-type]
    return found
