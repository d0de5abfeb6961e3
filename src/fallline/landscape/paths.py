r"""Paths between two solutions: the straight line, and how far the loss rises along it.

.. math:: B = \max_t \; L(\theta_t) - \big[(1 - t)\,L(\theta_0) + t\,L(\theta_1)\big]

is the loss barrier (Entezari et al., arXiv:2110.06296). For two solutions of equal loss it is the rise above both, as Git Re-Basin
defines it (arXiv:2209.04836). A barrier of zero is linear mode connectivity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fallline.core.errors import InvalidValueError
from fallline.core.oracle import Oracle
from fallline.core.types import Params
from fallline.curvature.batches import Data
from fallline.landscape.drawing import axes_or_new
from fallline.landscape.points import MeanLoss, mix

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Path", "interpolate", "path_of"]


@dataclass(frozen=True)
class Path:
    """Losses at places t from 0 to 1 on a path between two points."""

    positions: Tensor  # (n,), float64
    losses: Tensor  # (n,), float64

    @property
    def highest(self) -> float:
        """The largest loss on the path."""
        return float(self.losses.max())

    @property
    def barrier(self) -> float:
        """How far the loss rises above the line between the losses of the ends: 0 or more."""
        return float((self.losses - self.losses[0].lerp(self.losses[-1], self.positions)).max())

    def plot(self, ax: Axes | None = None) -> Axes:
        """Loss against the place on the path."""
        ax = axes_or_new(ax)
        ax.plot(self.positions.numpy(), self.losses.numpy(), label=f"barrier {self.barrier:.3g}")
        ax.set(xlabel="place between the solutions", ylabel="loss")
        ax.legend(frameon=False)
        return ax


def interpolate(
    oracle: Oracle, data: Data, start: Params, end: Params, *, num: int = 21, batch_statistics: bool = False
) -> Path:
    r"""The loss at ``num`` equally spaced places of the straight line :math:`(1 - t)\,\theta_0 + t\,\theta_1`.

    With batch normalisation pass ``batch_statistics=True``: the running statistics of the model belong to neither end.
    """
    loss = MeanLoss(oracle, data, batch_statistics)
    return path_of(loss, lambda t: mix(start, end, t), num)


def path_of(loss: MeanLoss, at: Callable[[float], Params], num: int) -> Path:
    """The losses at equally spaced places of any path."""
    if num < 3:
        raise InvalidValueError(f"A path got num={num}. Expected at least 3 places, to see between the ends. Take 21.")
    places = torch.linspace(0, 1, num, dtype=torch.float64)
    return Path(places, torch.tensor([loss(at(t)) for t in places.tolist()], dtype=torch.float64))
