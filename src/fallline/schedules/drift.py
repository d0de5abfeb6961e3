r"""Learning rates that minimise regret while the solution drifts: they stop falling where drift and noise balance.

Online least squares, :math:`y = x^\top \theta_t + \text{noise}` with d features drawn from N(0, I), noise of variance
:math:`\sigma^2`, B examples a step and a solution that moves by :math:`\gamma_t` in a random direction. For SGD on half the
squared error the expected squared distance v to the solution follows

.. math:: v_{t+1} = v_t \left(1 - 2\eta_t + a \eta_t^2\right) + s \eta_t^2 + \gamma_t^2,
   \qquad a = 1 + \frac{d + 1}{B}, \quad s = \frac{\sigma^2 d}{B}

and the regret of a step is v/2. Since v' rises with v for every rate, what minimises the next v minimises all: the optimal
rate is :math:`\eta_t = v_t / (a v_t + s)`. The setting is that of Fahrbach et al. (arXiv:2303.15634, linear regression), who take its
continuous limit; the recursion above is exact for Gaussian features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.core.schedule import Schedule
from fallline.schedules.checks import positive, whole
from fallline.schedules.points import tabulated

__all__ = ["Tracking", "tracking_rates"]


@dataclass(frozen=True)
class Tracking:
    """The regret-optimal rates and the expected squared distances to the solution before each step."""

    rates: tuple[float, ...]
    distances: tuple[float, ...]

    @property
    def schedule(self) -> Schedule:
        """The rates as a schedule; after the last one it holds."""
        return tabulated(self.rates)

    @property
    def regret(self) -> float:
        """The expected excess loss, summed over the steps."""
        return sum(self.distances) / 2


def tracking_rates(drift: Sequence[float], dim: int, noise: float, batch: int = 1, distance: float = 1.0) -> Tracking:
    """The regret-optimal rates for a known drift, one number (how far the solution moves) after each step.

    ``noise`` is the variance of the targets' noise, ``distance`` the squared distance at the start.
    """
    whole("tracking_rates", "dim", dim)
    whole("tracking_rates", "batch", batch)
    positive("tracking_rates", "distance", distance)
    if not noise >= 0 or not len(drift) or not all(g >= 0 and math.isfinite(g) for g in drift):
        raise InvalidValueError(
            f"tracking_rates got noise={noise!r} and {len(drift)} drifts, {list(drift[:3])} and so on. Expected neither negative, and a drift "
            f"for every step. Write for example tracking_rates([0.0] * 1000, dim=10, noise=1.0)."
        )
    a, s = _constants(dim, noise, batch)
    rates, distances, v = [], [], float(distance)
    for moved in drift:
        rate = v / (a * v + s) if v > 0 else 0.0
        rates.append(rate)
        distances.append(v)
        v = _next(v, rate, a, s) + moved**2
    return Tracking(tuple(rates), tuple(distances))


def _constants(dim: int, noise: float, batch: int) -> tuple[float, float]:
    return 1 + (dim + 1) / batch, noise * dim / batch


def _next(v: float, rate: float, a: float, s: float) -> float:
    return v * (1 - 2 * rate + a * rate**2) + s * rate**2


@claim(
    "tracking_rates",
    "the optimal rate is higher where the solution drifts, and settles where drift and noise balance",
    "arXiv:2303.15634, abstract",
)
def settles(lab):
    dim, noise, batch, moved = 10, 0.5, 4, 0.05
    still = tracking_rates([0.0] * 3000, dim, noise, batch)
    moving = tracking_rates([moved] * 3000, dim, noise, batch)
    yield lab.less(2 * still.rates[-1], moving.rates[-1])
    a, s = _constants(dim, noise, batch)
    square = moved**2  # v = v - v^2 / (a v + s) + moved^2
    v = (square * a + math.sqrt((square * a) ** 2 + 4 * square * s)) / 2
    yield lab.close(moving.rates[-1], v / (a * v + s))


@claim(
    "tracking_rates",
    "without drift the optimal rate decays as 1/t",
    "Robbins & Monro, 1951; arXiv:2303.15634, section 1",
)
def decays(lab):
    rates = tracking_rates([0.0] * 20_000, dim=5, noise=1.0).rates
    yield lab.ratio(rates[9_999], rates[19_999], equals=2.0, rtol=0.01)


@claim("tracking_rates", "a shift of the solution makes the optimal rate rise at once", "arXiv:2303.15634, abstract")
def rises(lab):
    drift = [0.0] * 200
    drift[99] = 1.0
    rates = tracking_rates(drift, dim=5, noise=1.0).rates
    yield lab.less(5 * rates[99], rates[100])


@claim(
    "tracking_rates",
    "the distance follows the recursion: one step on drawn data, averaged",
    "derived; checked on 40,000 draws",
)
def recursion(lab):
    dim, batch, noise, rate, draws = 4, 3, 0.7, 0.2, 40_000
    rng = torch.Generator().manual_seed(0)
    start = torch.full((dim,), 0.5, dtype=torch.float64)
    x = torch.randn(draws, batch, dim, generator=rng, dtype=torch.float64)
    residual = x @ start - noise**0.5 * torch.randn(draws, batch, generator=rng, dtype=torch.float64)
    after = start - rate * (residual[..., None] * x).mean(1)
    a, s = _constants(dim, noise, batch)
    yield lab.close(after.square().sum(-1).mean(), _next(float(start.square().sum()), rate, a, s), rtol=0.01)
