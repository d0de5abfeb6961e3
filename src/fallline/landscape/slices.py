r"""Slices: the loss along a line, or over a plane, through a point.

.. math:: f(a) = L(\theta + a\,d), \qquad f(a, b) = L(\theta + a\,d_1 + b\,d_2)

Li et al., arXiv:1712.09913. A slice shows one or two directions of very many: a convex-looking slice does not make the loss convex, and
the curvature along a random direction is near the mean curvature, far below the largest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fallline.core.errors import InvalidValueError
from fallline.core.oracle import Oracle
from fallline.core.types import Params
from fallline.curvature.batches import Data, own_params
from fallline.landscape.directions import random_direction
from fallline.landscape.drawing import axes_or_new
from fallline.landscape.points import MeanLoss, moved

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Slice1d", "Slice2d", "losses_on_plane", "slice_1d", "slice_2d"]


@dataclass(frozen=True)
class Slice1d:
    """Losses at equally spaced places on a line through a point, which is at 0."""

    positions: Tensor  # (n,), float64
    losses: Tensor  # (n,), float64

    @property
    def curvature(self) -> float:
        r"""The second difference at the point: :math:`d^T H d` up to the square of the spacing."""
        i = int(self.positions.abs().argmin())
        left, here, right = self.losses[i - 1 : i + 2].tolist()
        return (left - 2 * here + right) / float(self.positions[i + 1] - self.positions[i]) ** 2

    def plot(self, ax: Axes | None = None) -> Axes:
        """Loss against position."""
        ax = axes_or_new(ax)
        ax.plot(self.positions.numpy(), self.losses.numpy())
        ax.axvline(0, linewidth=0.7, color="grey")
        ax.set(xlabel="position along the direction", ylabel="loss")
        return ax


@dataclass(frozen=True)
class Slice2d:
    """Losses on a grid in a plane through a point, which is at (0, 0)."""

    x: Tensor  # (n,), float64
    y: Tensor  # (m,), float64
    losses: Tensor  # (m, n), float64: a row for each y
    cosine: float  # between the two directions: 0 for an undistorted picture
    path: Tensor | None = None  # (points, 2): a trajectory projected on the plane

    def plot(self, ax: Axes | None = None) -> Axes:
        """Contours, closer together where the loss is low; the trajectory, if there is one."""
        ax = axes_or_new(ax)
        finite = self.losses[self.losses.isfinite()]
        low, high = float(finite.min()), float(finite.max())
        levels = low + (high - low) * torch.linspace(0, 1, 22, dtype=torch.float64)[1:] ** 2
        drawn = ax.contour(self.x.numpy(), self.y.numpy(), self.losses.numpy(), levels.unique().tolist())
        ax.clabel(drawn, list(drawn.levels)[::3], fontsize=8)
        if self.path is not None:
            ax.plot(self.path[:, 0].numpy(), self.path[:, 1].numpy(), ".-", color="black", linewidth=0.8, markersize=3)
        ax.plot(0, 0, "+", color="black")
        ax.set(xlabel="along the first direction", ylabel="along the second direction")
        return ax


def slice_1d(
    oracle: Oracle,
    data: Data,
    direction: Params | None = None,
    *,
    params: Params | None = None,
    radius: float = 1.0,
    num: int = 41,
    batch_statistics: bool = False,
) -> Slice1d:
    """The loss at ``num`` places from -radius to radius along a direction.

    slice_1d(oracle, data).plot()

    Args:
        direction: named tensors; a filter-normalised random one by default.
        params: the point: the oracle's own parameters by default.
        num: odd, so that the point itself is among the places.
        batch_statistics: batch normalisation by each batch's own statistics in place of the running ones.
    """
    places = _places(radius, num)
    point = own_params(oracle, params)
    chosen = _random(oracle, point, 0) if direction is None else direction
    loss = MeanLoss(oracle, data, batch_statistics)
    found = [loss(moved(point, [chosen], [a])) for a in places.tolist()]
    return Slice1d(places, torch.tensor(found, dtype=torch.float64))


def slice_2d(
    oracle: Oracle,
    data: Data,
    directions: Sequence[Params] | None = None,
    *,
    params: Params | None = None,
    radius: float = 1.0,
    num: int = 21,
    batch_statistics: bool = False,
) -> Slice2d:
    """The loss on a grid of ``num`` times ``num`` places, as ``slice_1d`` along two directions."""
    places = _places(radius, num)
    point = own_params(oracle, params)
    chosen = [_random(oracle, point, s) for s in (0, 1)] if directions is None else list(directions)
    if len(chosen) != 2:
        raise InvalidValueError(
            f"slice_2d() got {len(chosen)} directions. Expected two. Pass [first, second], or none for random ones."
        )
    losses = losses_on_plane(MeanLoss(oracle, data, batch_statistics), point, chosen, places, places)
    return Slice2d(places, places, losses, _cosine(*chosen))


def losses_on_plane(loss: MeanLoss, point: Params, directions: Sequence[Params], x: Tensor, y: Tensor) -> Tensor:
    """The losses at all places of a grid, a row for each y."""
    rows = [[loss(moved(point, directions, [a, b])) for a in x.tolist()] for b in y.tolist()]
    return torch.tensor(rows, dtype=torch.float64)


def _random(oracle: Oracle, point: Params, seed: int) -> dict[str, Tensor]:
    """A direction of the parameters alone: buffers of the point stay."""
    known = oracle.params
    return random_direction({name: p for name, p in point.items() if name in known}, seed=seed)


def _cosine(a: Params, b: Params) -> float:
    inner = sum(float((d * b[name]).sum()) for name, d in a.items() if name in b)
    squares = [sum(float(d.square().sum()) for d in x.values()) for x in (a, b)]
    return inner / math.sqrt(squares[0] * squares[1]) if all(squares) else 0.0


def _places(radius: float, num: int) -> Tensor:
    if num < 3 or num % 2 == 0 or not radius > 0:
        raise InvalidValueError(
            f"A slice got radius={radius!r}, num={num!r}. Expected a radius above 0 and an odd number of places, at least 3, so that "
            f"the point itself is one of them. Take radius=1.0, num=41."
        )
    half = torch.arange(-(num // 2), num // 2 + 1, dtype=torch.float64)
    return radius * half / (num // 2)
