r"""Heavy-tailed noise: gradient descent driven by a stable Levy process, :math:`dX = -\nabla f\, dt + \sigma\, dL^\alpha`.

Increments over h have size :math:`h^{1/\alpha}`; alpha = 2 is Brownian motion. Jumps leave a basin after a time that depends on its width, not on its
height (Simsekli, Sagun & Gurbuzbalaban, arXiv:1901.06053).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.func import vmap

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.flows.fields import Field

__all__ = ["exit_steps", "solve_levy", "stable"]


def stable(alpha: float, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    r"""Symmetric alpha-stable numbers with characteristic function :math:`e^{-|\omega|^\alpha}`, float64, by Chambers, Mallows & Stuck (JASA 1976).
    alpha = 2 is normal with variance 2, alpha = 1 Cauchy."""
    if not 0 < alpha <= 2:
        raise InvalidValueError(f"stable() got alpha={alpha}. Expected a number in (0, 2]. Pass 2 for Gaussian noise.")
    made = torch.Generator().manual_seed(seed)
    v = (torch.rand(shape, generator=made, dtype=torch.float64) - 0.5) * math.pi
    w = -torch.log1p(-torch.rand(shape, generator=made, dtype=torch.float64))
    if alpha == 1:
        return v.tan()
    return (alpha * v).sin() / v.cos() ** (1 / alpha) * (((1 - alpha) * v).cos() / w) ** ((1 - alpha) / alpha)


def solve_levy(drift: Field, start: Tensor, alpha: float, sigma: float, increments: Tensor, until: float) -> Tensor:
    """Euler's method for paths driven by ``stable`` numbers of shape (steps, paths, d): all points, shape (steps + 1, paths, d)."""
    h = until / len(increments)
    x = start.expand(increments.shape[1], -1)
    points, field = [x], vmap(drift)
    for jump in increments:
        x = x + h * field(x) + sigma * h ** (1 / alpha) * jump
        points.append(x)
    return torch.stack(points)


def exit_steps(points: Tensor, width: float) -> Tensor:
    """The first step at which a path's first coordinate is farther than ``width`` from its start, or the last step; shape (paths,)."""
    outside = (points[..., 0] - points[0, :, 0]).abs() > width
    first = outside.to(torch.int64).argmax(0)
    return torch.where(outside.any(0), first, len(points) - 1)


@claim(
    "heavy tails",
    "with jumps a basin twice as wide holds paths 2^alpha times as long, whatever its height",
    where="arXiv:1901.06053, on metastability",
)
def width_not_height(lab):
    alpha, sigma = 1.2, 0.02
    noise = stable(alpha, (1500, 1500, 1), seed=1)
    still = solve_levy(lambda x: -4.0 * x, torch.zeros(1, dtype=torch.float64), alpha, sigma, noise, 150.0)
    steep = solve_levy(lambda x: -8.0 * x, torch.zeros(1, dtype=torch.float64), alpha, sigma, noise, 150.0)

    def rate(points: Tensor, width: float) -> float:
        steps = exit_steps(points, width)
        return float((steps < len(points) - 1).sum() / steps.sum())  # exits by time spent inside

    yield lab.ratio(rate(still, 0.5), rate(still, 1.0), equals=2**alpha, rtol=0.15)
    yield lab.ratio(rate(steep, 1.0), rate(still, 1.0), equals=1, rtol=0.15)  # twice the height
