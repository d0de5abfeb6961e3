"""What a step may ask for besides the gradient at the parameter: gradients at other points, of all data, losses on the way.

A step declares them as data: ``gradients = {"h": GradientAt(point)}`` names a slot that the optimizer fills, by calling the
closure there, before ``update`` runs. The maths finds them among its slots; no layout and no kernel knows of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

__all__ = ["Due", "FullGradient", "GradientAt", "Request", "Search"]

Due: TypeAlias = Callable[[Any, int], bool]
"""(the step, t) -> whether the slot is filled anew at the parameter's step t; otherwise it keeps its value."""


def always(step: Any, t: int) -> bool:
    """At every step."""
    return True


@dataclass(frozen=True)
class GradientAt:
    """The slot takes the gradient of the same batch at ``point(step, at, **slots)``, which is pure and works on one tensor."""

    point: Callable[..., Tensor]
    due: Due = always
    needs = "closure"
    what = "the batch's gradient at another point"


@dataclass(frozen=True)
class FullGradient:
    """The slot takes the gradient of all data at the parameter."""

    due: Due = always
    needs = "full"
    what = "the gradient of all data"


@dataclass(frozen=True)
class Search:
    """The slot, one number, takes the first rate of a sequence at which the batch's loss is accepted.

    The sequence starts at ``first(step, before)``, ``before`` being the rate of the last step, and is multiplied by
    ``factor(step)``, ``most`` times at most. ``point(step, at, rate)`` is where the loss is taken, ``slope(step, at)`` one
    tensor's term of the sum that ``accepts(step, loss, start, rate, slope)`` sees besides the two losses.
    """

    first: Callable[[Any, float], float]
    factor: Callable[[Any], float]
    most: int
    point: Callable[..., Tensor]
    slope: Callable[..., Tensor]
    accepts: Callable[[Any, float, float, float, float], bool]
    needs = "closure"
    what = "a rate at which the batch's loss is low enough"


Request: TypeAlias = GradientAt | FullGradient | Search
