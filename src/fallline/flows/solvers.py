r"""Solvers of ordinary differential equations as tableaus: Euler, midpoint, Heun, RK4, adaptive Dormand-Prince; and heavy ball.

A tableau of stages :math:`k_i = f(y + h \sum_{j<i} a_{ij} k_j)` and weights b gives :math:`y \leftarrow y + h \sum_i b_i k_i`. Gradient descent
is Euler's method on gradient flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fallline.core.errors import InvalidValueError
from fallline.flows.fields import Field

__all__ = [
    "DORMAND_PRINCE",
    "EULER",
    "HEUN",
    "MIDPOINT",
    "RK4",
    "Path",
    "Tableau",
    "heavy_ball_path",
    "solve",
    "solve_adaptive",
]


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta method: rows of ``a``, weights ``b``, its order, and weights of lower order to judge the error by."""

    name: str
    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    low: tuple[float, ...] | None = None

    def stages(self, field: Field, y: Tensor, h: float) -> Tensor:
        """Velocities at all stages, shape (stages, d)."""
        found: list[Tensor] = []
        for row in self.a:
            shift = sum((w * k for w, k in zip(row, found, strict=True)), torch.zeros_like(y))
            found.append(field(y + h * shift))
        return torch.stack(found)

    def step(self, field: Field, y: Tensor, h: float) -> Tensor:
        """The point one step on."""
        return y + h * self._mean(self.b, self.stages(field, y, h))

    def step_and_error(self, field: Field, y: Tensor, h: float) -> tuple[Tensor, Tensor]:
        """The point one step on, and the difference to the method of lower order."""
        assert self.low is not None
        k = self.stages(field, y, h)
        return y + h * self._mean(self.b, k), h * (self._mean(self.b, k) - self._mean(self.low, k))

    @staticmethod
    def _mean(weights: Sequence[float], k: Tensor) -> Tensor:
        return torch.einsum("s,s...->...", torch.tensor(weights, dtype=k.dtype), k)


EULER = Tableau("euler", 1, ((),), (1.0,))
MIDPOINT = Tableau("midpoint", 2, ((), (1 / 2,)), (0.0, 1.0))
HEUN = Tableau("heun", 2, ((), (1.0,)), (1 / 2, 1 / 2), low=(1.0, 0.0))
RK4 = Tableau("rk4", 4, ((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
DORMAND_PRINCE = Tableau(  # Dormand & Prince 1980; the coefficients of scipy's RK45 and of MATLAB's ode45
    "dormand-prince",
    5,
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    low=(5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40),
)


@dataclass(frozen=True)
class Path:
    """Points along a solution."""

    times: Tensor
    """Shape (points,)."""
    points: Tensor
    """Shape (points, d)."""
    num_evaluations: int
    """How often the field was evaluated."""

    @property
    def end(self) -> Tensor:
        """The last point."""
        return self.points[-1]


def solve(field: Field, start: Tensor, until: float, steps: int, tableau: Tableau = RK4) -> Path:
    """Equal steps from time 0 to ``until``; all points are kept."""
    if steps < 1:
        raise InvalidValueError(f"solve() got steps={steps}. Expected at least 1. Pass the number of equal steps.")
    h, points = until / steps, [start]
    for _ in range(steps):
        points.append(tableau.step(field, points[-1], h))
    times = torch.linspace(0, until, steps + 1, dtype=start.dtype)
    return Path(times, torch.stack(points), steps * len(tableau.b))


def solve_adaptive(
    field: Field, start: Tensor, until: float, rtol: float = 1e-6, atol: float = 1e-9, tableau: Tableau = DORMAND_PRINCE
) -> Path:
    r"""Steps chosen so that the estimated error of each, in root mean square over ``atol + rtol |y|``, stays below one.

    A step that fails is repeated, shorter; the next is :math:`0.9\, h\, \mathrm{err}^{-1/p}` (Hairer, Norsett & Wanner, section II.4), p the order.
    """
    if tableau.low is None:
        raise InvalidValueError(
            f"solve_adaptive() got {tableau.name}, which has no second set of weights to judge the error by. Expected one that "
            f"has. Pass DORMAND_PRINCE or HEUN, or use solve()."
        )
    t, y, h, evaluations = 0.0, start, until / 100, 0
    times, points = [0.0], [start]
    while t < until:
        if h < 1e-14 * until:
            raise InvalidValueError(
                f"solve_adaptive() cannot get beyond t = {t:.6g}: steps shrank to nothing. Expected a field that is smooth "
                f"and stays finite. End before {t:.6g}, or look for a singularity there."
            )
        h = min(h, until - t)
        new, error = tableau.step_and_error(field, y, h)
        evaluations += len(tableau.b)
        scale = atol + rtol * torch.maximum(y.abs(), new.abs())
        size = float((error / scale).square().mean().sqrt())
        if size <= 1:
            t, y = (until if until - t - h < 1e-14 * until else t + h), new
            times.append(t)
            points.append(y)
        factor = 0.9 * size ** (-1 / tableau.order) if size > 0 else 10.0
        h *= min(10.0, max(0.2, factor)) if size == size else 0.2
    return Path(torch.tensor(times, dtype=start.dtype), torch.stack(points), evaluations)


def heavy_ball_path(field: Field, start: Tensor, lr: float, momentum: float, steps: int) -> Path:
    r"""Polyak's two-step method :math:`y_{k+1} = y_k + h f(y_k) + \beta (y_k - y_{k-1})` as a solver.

    On steps of :math:`s = \sqrt h` of time, with :math:`\beta = 1 - c s`, it solves :math:`y'' + c\, y' = f(y)` from rest with order one in s;
    on steps of h, with beta fixed, :math:`y' = f(y) / (1 - \beta)` with order one in h. Times are counted in steps of h.
    """
    points = [start, start + lr * field(start)]
    for _ in range(steps - 1):
        points.append(points[-1] + lr * field(points[-1]) + momentum * (points[-1] - points[-2]))
    return Path(lr * torch.arange(steps + 1, dtype=start.dtype), torch.stack(points), steps)
