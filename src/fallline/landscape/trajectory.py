r"""Principal components of a trajectory, and whether they tell it from a random walk.

Principal components of a random walk in high dimension are cosines in time, whatever the walk: the k-th holds the share
:math:`6 / (\pi^2 k^2)` of the variance (60.8 %, 15.2 %, 6.8 %), and two of them draw a Lissajous curve (Antognini and Sohl-Dickstein,
arXiv:1806.08805). A smooth curve with 61 % of the variance in its first component is hence no finding about training.
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
from fallline.curvature.batches import Data
from fallline.curvature.space import Space
from fallline.landscape.drawing import axes_or_new
from fallline.landscape.points import MeanLoss, require_alike
from fallline.landscape.slices import Slice2d, losses_on_plane

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["TrajectoryPCA", "trajectory_pca", "trajectory_slice", "walk_shares"]

_ALIKE = 0.9
"""Squared correlation with the walk's cosine above which a component counts as one."""


@dataclass(frozen=True)
class TrajectoryPCA:
    """Principal components of the points of a trajectory, beside those of a random walk of as many points."""

    shares: Tensor  # (k,), float64: of the variance
    walk_shares: Tensor  # (k,), float64: of a random walk in high dimension
    cosine_fit: Tensor  # (k,), float64: squared correlation of each coordinate with the walk's cosine in time
    coordinates: Tensor  # (points, k), float64, relative to the last point
    components: tuple[dict[str, Tensor], ...]  # of unit length
    last: dict[str, Tensor]

    @property
    def resembles_walk(self) -> bool:
        """Whether the first two components are the cosines in time that a random walk has."""
        return bool((self.cosine_fit[:2] > _ALIKE).all())

    @property
    def warning(self) -> str:
        """What the picture does and does not show, in words."""
        share, walk = float(self.shares[0]), float(self.walk_shares[0])
        fits = " and ".join(f"{f:.2f}" for f in self.cosine_fit[:2].tolist())
        verdict = "cannot be told from a random walk by" if self.resembles_walk else "differs from a random walk in"
        return (
            f"The first component holds {share:.1%} of the variance; of a random walk of {len(self.coordinates)} points in high "
            f"dimension it holds {walk:.1%}, and the projections are cosines in time (Lissajous curves). Squared correlation with "
            f"these: {fits}. The trajectory {verdict} this projection."
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """The trajectory in its first two components; the shares of a random walk stand beside its own."""
        ax = axes_or_new(ax)
        ax.plot(self.coordinates[:, 0].numpy(), self.coordinates[:, 1].numpy(), ".-", linewidth=0.8, markersize=3)
        ax.plot(0, 0, "+", color="black")
        pairs = zip(self.shares[:2].tolist(), self.walk_shares[:2].tolist(), strict=True)
        labels = [f"component {k} ({s:.0%}; random walk {w:.0%})" for k, (s, w) in enumerate(pairs, 1)]
        ax.set(xlabel=labels[0], ylabel=labels[1])
        return ax


def trajectory_pca(points: Sequence[Params], *, num_components: int = 2) -> TrajectoryPCA:
    """Principal components of snapshots taken at equal intervals, in order.

    points = []  # while training: points.append(snapshot(oracle))
    found = trajectory_pca(points)
    print(found.warning)
    """
    if num_components < 2 or len(points) <= num_components:
        raise InvalidValueError(
            f"trajectory_pca() got {len(points)} points and num_components={num_components}. Expected at least 2 components and more "
            f"points than components. Take snapshots more often."
        )
    for p in points[1:]:
        require_alike(points[0], p)
    space = Space.of(points[0])
    rows = torch.stack([space.flatten(p).detach().to("cpu", torch.float64) for p in points])
    centred = rows - rows.mean(0)
    if not centred.any():
        raise InvalidValueError(
            "trajectory_pca() got points that are all equal. Expected a trajectory. Copy each: snapshot(oracle)."
        )
    values, vectors = torch.linalg.eigh(centred @ centred.T)  # the Gram matrix: points are fewer than parameters
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)[:, :num_components]
    axes = torch.linalg.qr((vectors.T @ centred).T).Q  # unit length, and orthogonal also where the variance ends
    coordinates = centred @ axes
    return TrajectoryPCA(
        values[:num_components] / values.sum(),
        walk_shares(len(points), num_components),
        _cosine_fit(coordinates),
        coordinates - coordinates[-1],
        tuple(space.unflatten(axis.to(space.device, space.dtype)) for axis in axes.T),
        {name: p.detach().clone() for name, p in points[-1].items()},
    )


def walk_shares(num_points: int, num_components: int) -> Tensor:
    r"""The shares of a random walk's components, shape (components,), as the dimension goes to infinity; of many points they are
    :math:`6 / (\pi^2 k^2)`.

    The centred Gram matrix of n points has the eigenvalues :math:`1 / (2 - 2 \cos(\pi k / n))`, whose sum is :math:`(n^2 - 1) / 6`.
    """
    k = torch.arange(1, num_components + 1, dtype=torch.float64)
    return 6 / (num_points**2 - 1) / (2 - 2 * torch.cos(math.pi * k / num_points))


def trajectory_slice(
    oracle: Oracle,
    data: Data,
    found: TrajectoryPCA,
    *,
    num: int = 21,
    margin: float = 0.2,
    batch_statistics: bool = False,
) -> Slice2d:
    """The loss over the plane of a trajectory's first two components through its last point, which is at (0, 0).

    The plane holds the trajectory's projection alone: losses along the drawn path are not those of training. ``margin`` is left on each
    side, in parts of the path's extent.
    """
    if num < 2 or margin < 0:
        raise InvalidValueError(
            f"trajectory_slice() got num={num}, margin={margin}. Expected at least 2 places and a margin of 0 or more. Take num=21."
        )
    path = found.coordinates[:, :2]
    low, high = path.min(0).values, path.max(0).values
    reach = margin * (high - low).clamp(min=1e-3 * float((high - low).max()))
    x, y = (
        torch.linspace(float(a), float(b), num, dtype=torch.float64)
        for a, b in zip(low - reach, high + reach, strict=True)
    )
    losses = losses_on_plane(MeanLoss(oracle, data, batch_statistics), found.last, found.components[:2], x, y)
    return Slice2d(x, y, losses, 0.0, path)


def _cosine_fit(coordinates: Tensor) -> Tensor:
    """Squared correlation of the k-th coordinate with cos(pi k (t + 1/2) / n)."""
    n, num = coordinates.shape
    t = (torch.arange(n, dtype=torch.float64) + 0.5)[:, None]
    cosines = torch.cos(math.pi * t * torch.arange(1, num + 1, dtype=torch.float64) / n)  # columns sum to 0
    inner = (cosines * coordinates).sum(0).square()
    return inner / (cosines.square().sum(0) * coordinates.square().sum(0)).clamp(min=1e-300)
