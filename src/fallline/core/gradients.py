"""What a step may ask for besides the gradient at the parameter: gradients at other points, of all data, losses on the way.

A step declares them as data: ``gradients = {"h": GradientAt(point)}`` names a slot that the optimizer fills, by calling the
closure there, before ``update`` runs. The maths finds them among its slots; no layout and no kernel knows of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

__all__ = ["Due", "FullGradient", "GradientAt", "HessianDiagonal", "Request", "Search", "VarianceOfParts"]

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
    """The slot, one number, takes the first of a sequence of numbers x at which the batch's loss is accepted.

    The sequence starts at ``first(step, before)``, ``before`` being the number of the last step, and is multiplied by
    ``factor(step)``, at most ``most(step)`` times. ``point(step, at, x)`` is where the loss is taken, ``accepts(step, loss, start, x, total)``
    the decision, from the two losses and the sum of what the step, which is of reach GROUP, measures. All tensors share the number.
    """

    first: Callable[[Any, float], float]
    factor: Callable[[Any], float]
    most: Callable[[Any], int]
    point: Callable[[Any, Any, float], Tensor]
    accepts: Callable[[Any, float, float, float, float], bool]
    needs = "closure"
    what = "the batch's loss at trial points"

    def run(self, step: Any, before: float, start: float, total: float, loss_at: Callable[[float], float]) -> float:
        """The number that is accepted, or the last one tried."""
        x = self.first(step, before)
        for _ in range(self.most(step)):
            if self.accepts(step, loss_at(x), start, x, total):
                break
            x *= self.factor(step)
        return x


@dataclass(frozen=True)
class VarianceOfParts:
    """The slot takes the variance, element by element, between the gradients of the batch's parts; their mean is the gradient."""

    due: Due = always
    needs = "parts"
    what = "the variance between the gradients of the batch's parts"


@dataclass(frozen=True)
class HessianDiagonal:
    """The slot takes an unbiased estimate of the diagonal of the Hessian of the batch's loss: z * (H z), element by element.

    The signs z are drawn anew each time, from the optimizer's seed (Hutchinson 1990; Bekas et al. 2007, doi:10.1016/j.apnum.2007.01.003).
    H is that of all parameters together for which the estimate is asked. Where the closure calls ``backward(create_graph=True)``, H z is
    exact, by differentiating gradients; else it is a central difference of two gradients, ``evaluate.along``.
    """

    due: Due = always
    needs = "closure"
    what = "an estimate of the Hessian's diagonal"
    calls = 2  # of the closure, where it leaves no graph


Request: TypeAlias = GradientAt | FullGradient | HessianDiagonal | Search | VarianceOfParts
