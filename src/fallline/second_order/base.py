r"""What second-order steps share: an oracle whose gradient is a step already, and the damping that keeps it where its model holds.

.. math:: d = (B + \lambda I)^{-1} g, \qquad \theta \leftarrow \theta - d
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fallline.core.errors import InvalidTypeError, InvalidValueError
from fallline.core.oracle import Batch, Gradients, Oracle
from fallline.core.types import Params
from fallline.objectives.base import Objective, at_least

__all__ = ["PRODUCT", "Direction", "LevenbergMarquardt", "Solver", "eigh", "finite", "levenberg_marquardt", "plain"]


@dataclass(frozen=True)
class LevenbergMarquardt:
    r"""Damping that follows how well the quadratic model predicted: made by ``levenberg_marquardt``."""

    start: float
    factor: float
    low: float
    high: float

    def next(self, damping: Tensor, ratio: Tensor) -> Tensor:
        """The damping after a step whose reduction was ``ratio`` times what was predicted; one that is not finite counts as none."""
        up, down = damping / self.factor, damping * self.factor
        found = torch.where(ratio > 0.75, down, torch.where(ratio >= 0.25, damping, up))
        return found.clamp(self.low, self.high)


def levenberg_marquardt(
    start: float = 1.0, factor: float = 2 / 3, low: float = 1e-10, high: float = 1e10
) -> LevenbergMarquardt:
    r"""Adaptive damping: less where the quadratic model predicts well, more where it does not.

    .. math:: \rho = \frac{L(\theta) - L(\theta - d)}{g^T d - \frac12 d^T B d}, \qquad
        \lambda \leftarrow c \lambda \ \text{if } \rho > 3/4, \quad \lambda / c \ \text{if } \rho < 1/4

    The ratio is that of the whole step d on the step's own batch, whatever the optimizer makes of it, and costs one forward pass. The
    step itself is not taken back. Marquardt 1963; the numbers are those of Martens 2010 (Hessian-free, section 4.1).
    """
    start, low = at_least("start", start, 0.0, above=True), at_least("low", low, 0.0, above=True)
    if not 0 < factor < 1 or not low <= start <= high:
        raise InvalidValueError(
            f"levenberg_marquardt() got start={start!r}, factor={factor!r}, low={low!r}, high={high!r}. Expected a factor between 0 "
            f"and 1, and low <= start <= high. Leave out what you do not need."
        )
    return LevenbergMarquardt(start, float(factor), low, float(high))


PRODUCT = 2
"""Gradient evaluations that a product with the Hessian or the Gauss-Newton matrix counts as: it passes forward and back twice."""


class Direction(Objective):
    """An oracle whose gradient is a step: ``backward`` writes the direction that is subtracted into ``.grad``.

    Any optimizer takes it from there; ``sgd(lr=1.0)`` takes it as it is. The loss is that of the oracle inside. State moves at
    calls with ``statistics=True`` alone, as for every objective.

    ``gradients`` says what the last direction took, in gradient evaluations of the batch: one for the gradient, one for each further
    backward pass or loss, two for each product with a matrix of curvature.
    """

    changes = "gradient"
    gradients = 0


class Solver(Direction):
    """A direction that is damped, by a number or by a rule."""

    def __init__(self, inner: Oracle, damping: float | LevenbergMarquardt) -> None:
        super().__init__(inner)
        self.rule = damping if isinstance(damping, LevenbergMarquardt) else None
        start = damping.start if isinstance(damping, LevenbergMarquardt) else at_least("damping", damping, 0.0)
        self.state["damping"] = torch.tensor(start, dtype=torch.float64)

    @property
    def damping(self) -> float:
        """The damping of the next step."""
        return float(self.state["damping"])

    @damping.setter
    def damping(self, value: float) -> None:
        self.state["damping"] = torch.tensor(at_least("damping", value, 0.0), dtype=torch.float64)

    def adapt(self, params: Params, batch: Batch, value: Tensor, g: Gradients, d: Gradients) -> None:
        r"""Move the damping by the reduction ratio of this step, where there is a rule; :math:`(B + \lambda I) d = g`, so that the
        model predicts a reduction of :math:`(g^T d + \lambda |d|^2) / 2`."""
        if self.rule is None:
            return
        self.gradients += 1
        with torch.no_grad():
            there = self.inner.loss({n: p.detach() - d[n] for n, p in params.items()}, batch)
        slope = sum(float((g[n] * d[n]).double().sum()) for n in d)
        square = sum(float(d[n].double().square().sum()) for n in d)
        predicted = (slope + self.damping * square) / 2
        ratio = (value.double() - there.double()) / predicted if predicted > 0 else torch.zeros(())
        self.state["damping"] = self.rule.next(self.state["damping"], ratio.detach().cpu().double())


def plain(oracle: Oracle, by: str) -> Oracle:
    """The oracle, or an error where it is an objective: what looks at outputs and losses of examples must see the model's own."""
    if isinstance(oracle, Objective):
        raise InvalidTypeError(
            f"{by}() got an objective ({type(oracle).__name__.strip('_')}). Expected an oracle of a model, whose loss is a mean over "
            f"examples of a function of their outputs. Pass of_module(model, criterion)."
        )
    return oracle


def finite(tensors: Params) -> bool:
    """Whether every number is finite."""
    return all(bool(x.isfinite().all()) for x in tensors.values())


def eigh(a: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (..., n) and vectors (..., n, n) of symmetric matrices, in float64 of the scale one: in float32 LAPACK gives up on some
    that are nearly zero."""
    wide = a.double()
    size = wide.abs().amax((-2, -1), keepdim=True)
    size = torch.where(size > 0, size, 1.0)
    scaled = wide / size
    values, vectors = torch.linalg.eigh((scaled + scaled.mT) / 2)
    return (values * size[..., 0]).to(a.dtype), vectors.to(a.dtype)
