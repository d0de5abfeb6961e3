r"""How far the loss rises around a point: in the worst direction of a ball, and on average.

==================  ==================================================================================================
worst case          :math:`\max_{\|\epsilon\|_p \le \rho} L(\theta + \epsilon) - L(\theta)`: what SAM minimises (Foret et al.,
                    arXiv:2010.01412)
adaptive            the same over :math:`\|\epsilon / |\theta|\,\|_p \le \rho` (Kwon et al., arXiv:2102.11600): unchanged when weights are
                    rescaled without changing the function
epsilon-sharpness   over a box relative to the weights, relative to the loss (Keskar et al., arXiv:1609.04836, metric 2.1)
average             :math:`\mathbb{E}\,L(\theta + \epsilon) - L(\theta)`, :math:`\epsilon \sim N(0, \sigma^2)`: near a minimum
                    :math:`\sigma^2 \operatorname{tr}(H) / 2`
==================  ==================================================================================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from fallline.core.errors import InvalidValueError, unknown
from fallline.core.oracle import Oracle
from fallline.core.types import Params
from fallline.curvature import Estimate
from fallline.curvature.batches import Data
from fallline.curvature.space import Space
from fallline.landscape.drawing import axes_or_new
from fallline.landscape.points import MeanLoss, trainable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["NORMS", "WorstCase", "average_case", "epsilon_sharpness", "worst_case"]

NORMS = ("l2", "linf")


@dataclass(frozen=True)
class WorstCase:
    """The highest loss that was found around a point: a lower bound of the highest there is."""

    value: float  # the rise of the loss; of epsilon-sharpness in per cent of 1 + loss
    loss: float  # at the point
    perturbation: dict[str, Tensor]
    losses: Tensor  # (steps,), float64: what the search saw

    def plot(self, ax: Axes | None = None) -> Axes:
        """The losses of the search, above the loss at the point."""
        ax = axes_or_new(ax)
        ax.plot(range(1, len(self.losses) + 1), self.losses.numpy(), "o-", label="search")
        ax.axhline(self.loss, linewidth=0.7, color="grey", label="at the point")
        ax.set(xlabel="step of the search", ylabel="loss")
        ax.legend(frameon=False)
        return ax


def worst_case(
    oracle: Oracle,
    data: Data,
    rho: float = 0.05,
    *,
    params: Params | None = None,
    norm: str = "l2",
    adaptive: bool = False,
    num_steps: int = 20,
) -> WorstCase:
    r"""The rise of the loss in the worst direction of a ball of radius rho.

    Each step goes to the point of the ball that is farthest along the gradient, :math:`\epsilon \leftarrow \rho\,g / \|g\|` or
    :math:`\rho\,\mathrm{sign}(g)`: for a convex loss no step lowers it (the generalised power method, Journee et al.,
    arXiv:0811.4724), and on a quadratic with its minimum here it is power iteration, which ends at :math:`\rho^2 \lambda_{\max} / 2`.

    Args:
        norm: ``"l2"`` or ``"linf"``.
        adaptive: measure each entry in parts of its weight's size; weights of zero do not move. SAM's own defaults are a rho of 0.05,
            adaptive SAM's 0.5 and more.
        num_steps: 1 is the perturbation of SAM.
    """
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    if not rho > 0 or num_steps < 1:
        raise InvalidValueError(
            f"worst_case() got rho={rho!r}, num_steps={num_steps!r}. Expected a radius above 0 and at least one step. "
            f"SAM takes rho=0.05, num_steps=1."
        )
    point = trainable(oracle, params, "worst_case()")
    space, loss = Space.of(point), MeanLoss(oracle, data)
    at = space.flatten(point)
    size = at.abs() if adaptive else torch.ones_like(at)

    def ascent(now: Tensor) -> tuple[float, Tensor]:
        """The loss at an offset, in units of the ball, and the farthest offset along the gradient there."""
        value, gradients = loss.gradient(space.unflatten(at + size * now))
        slope = size * space.flatten(gradients)
        length = float(slope.norm())
        if length == 0 or not math.isfinite(length):
            slope = torch.randn(at.shape, generator=torch.Generator().manual_seed(0)).to(at) * size
        length = float(slope.norm()) or 1.0  # no direction at all: all weights are zero
        return _or_infinite(value), rho * (slope / length if norm == "l2" else slope.sign())

    here, offset = ascent(torch.zeros_like(at))
    tried = []
    for _ in range(num_steps):
        value, following = ascent(offset)
        tried.append((value, offset))
        offset = following
    highest, best = max(tried, key=lambda one: one[0])
    losses = torch.tensor([value for value, _ in tried], dtype=torch.float64)
    return WorstCase(highest - here, here, space.unflatten(size * best), losses)


def epsilon_sharpness(
    oracle: Oracle,
    data: Data,
    epsilon: float = 1e-3,
    *,
    params: Params | None = None,
    subspace: int | None = None,
    num_steps: int = 10,
    seed: int = 0,
) -> WorstCase:
    r"""Keskar's sharpness, in per cent:

    .. math:: \frac{\max_{y \in C} L(\theta + A y) - L(\theta)}{1 + L(\theta)} \cdot 100, \qquad
              C = \{ y : |y_i| \le \epsilon\,(|(A^+ \theta)_i| + 1) \}

    by L-BFGS-B, from a random place of the box. Large weights get a larger box, but the 1 in it keeps the measure from being
    unchanged by rescaling.

    Args:
        epsilon: the paper takes 1e-3 and 5e-4.
        subspace: the number of columns of a normal random A (the paper takes 100); the whole space, A = I, by default.
        num_steps: iterations of L-BFGS-B; the paper takes 10.
        seed: of A and of the start.
    """
    if not epsilon > 0 or num_steps < 1 or (subspace is not None and subspace < 1):
        raise InvalidValueError(
            f"epsilon_sharpness() got epsilon={epsilon!r}, subspace={subspace!r}, num_steps={num_steps!r}. Expected all above 0. "
            f"Keskar et al. take epsilon=1e-3, subspace=100, num_steps=10."
        )
    point = trainable(oracle, params, "epsilon_sharpness()")
    space, loss = Space.of(point), MeanLoss(oracle, data)
    at = space.flatten(point).double().cpu()
    drawn = torch.Generator().manual_seed(seed)
    a = None if subspace is None else torch.randn(len(at), subspace, generator=drawn, dtype=torch.float64)
    seen = at if a is None else torch.linalg.lstsq(a, at[:, None]).solution[:, 0]
    box = epsilon * (seen.abs() + 1)
    tried: list[tuple[float, Tensor]] = []

    def negative(y: np.ndarray) -> tuple[float, np.ndarray]:
        inside = torch.from_numpy(y) * box
        step = inside if a is None else a @ inside
        value, gradients = loss.gradient(space.unflatten((at + step).to(space.device, space.dtype)))
        slope = space.flatten(gradients).double().cpu()
        tried.append((_or_infinite(value), step))
        return -value, -(box * (slope if a is None else a.T @ slope)).numpy()

    start = 2 * torch.rand(len(box), generator=drawn, dtype=torch.float64) - 1
    minimize(
        negative,
        start.numpy(),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-1, 1)] * len(box),
        options={"maxiter": num_steps},
    )
    here = loss(point)
    highest, best = max(tried, key=lambda one: one[0])
    losses = torch.tensor([value for value, _ in tried], dtype=torch.float64)
    step = space.unflatten(best.to(space.device, space.dtype))
    return WorstCase(100 * (highest - here) / (1 + here), here, step, losses)


def average_case(
    oracle: Oracle,
    data: Data,
    sigma: float = 0.01,
    *,
    params: Params | None = None,
    adaptive: bool = False,
    num_samples: int = 20,
    seed: int = 0,
) -> Estimate:
    r"""The mean rise of the loss under normal noise of deviation sigma (times each weight's size, if ``adaptive``), with its standard error.

    Noise is taken with both signs, so that the slope at the point does not count.
    """
    if not sigma > 0 or num_samples < 2:
        raise InvalidValueError(
            f"average_case() got sigma={sigma!r}, num_samples={num_samples!r}. Expected noise above 0 and at least 2 samples, to say how "
            f"far off the mean may be. Take sigma=0.01, num_samples=20."
        )
    point = trainable(oracle, params, "average_case()")
    space, loss = Space.of(point), MeanLoss(oracle, data)
    at, here = space.flatten(point), loss(point)
    size, drawn = at.abs() if adaptive else torch.ones_like(at), torch.Generator().manual_seed(seed)
    rises = []
    for _ in range(num_samples):
        noise = sigma * size * torch.randn(at.shape, generator=drawn, dtype=torch.float64).to(at)
        rises.append(sum(loss(space.unflatten(at + sign * noise)) for sign in (1, -1)) / 2 - here)
    found = torch.tensor(rises, dtype=torch.float64)
    return Estimate(float(found.mean()), float(found.std()) / math.sqrt(num_samples), num_samples, 2 * num_samples)


def _or_infinite(value: float) -> float:
    """A loss that overflows on its way is higher than any."""
    return math.inf if math.isnan(value) else value
