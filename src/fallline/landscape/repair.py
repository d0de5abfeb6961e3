r"""Repair of a merged network: give its units the means and deviations that the two networks have on average.

Between two networks, even well matched, units vary less than in either: their outputs agree only in part, and what differs cancels. The
merged network's later layers see almost constant inputs (variance collapse). REPAIR (Jordan et al., arXiv:2211.08403) rescales each unit
before its activation:

.. math:: \mu_t = (1 - t)\,\mu_0 + t\,\mu_1, \qquad \sigma_t = (1 - t)\,\sigma_0 + t\,\sigma_1
"""

from __future__ import annotations

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
from fallline.landscape.symmetry import Symmetry
from fallline.landscape.units import UnitOutputs, UnitStatistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Repaired", "repair"]


@dataclass(frozen=True)
class Repaired:
    """A merged network whose units have the statistics they should have."""

    params: dict[str, Tensor]
    variance_before: dict[str, float]  # group -> units' variance in the merged network, in parts of what it should be
    variance_after: dict[str, float]

    def plot(self, ax: Axes | None = None) -> Axes:
        """The share of the variance that is left, by layer, before and after."""
        ax = axes_or_new(ax)
        for name, shares in (("merged", self.variance_before), ("repaired", self.variance_after)):
            ax.plot(list(shares), list(shares.values()), "o-", label=name)
        ax.axhline(1, linewidth=0.7, color="grey")
        ax.set(xlabel="layer", ylabel="variance of units, in parts of the aim")
        ax.legend(frameon=False)
        return ax


def repair(oracle: Oracle, data: Data, symmetry: Symmetry, start: Params, end: Params, *, t: float = 0.5) -> Repaired:
    r"""The network at place t of the line between two (matched) networks, its units rescaled and shifted layer by layer.

    merged = repair(oracle, data, symmetry, first, matched.params).params

    Where batch normalisation follows a layer, its running statistics are set to what the merged network has: that is the repair
    there, and the points must have been taken with ``snapshot(oracle, buffers=True)``. Elsewhere the correction goes into the layer's
    weight and bias.
    """
    if not 0 <= t <= 1:
        raise InvalidValueError(
            f"repair() got t={t}. Expected a place from 0 to 1 on the line. Take 0.5 for the middle."
        )
    symmetry.sizes(start)
    outputs = UnitOutputs(MeanLoss(oracle, data), list(symmetry.groups))
    ends = [outputs.statistics(point) for point in (start, end)]
    point = mix(start, end, t)
    aims = {
        group: UnitStatistics(one.mean.lerp(ends[1][group].mean, t), one.std.lerp(ends[1][group].std, t), one.count)
        for group, one in ends[0].items()
    }
    before = outputs.statistics(point)
    for group in symmetry.groups:  # in order: a layer's statistics depend on the layers before it
        point = _corrected(symmetry, group, point, outputs.statistics(point)[group], aims[group])
    after = outputs.statistics(point)
    return Repaired(point, *({g: _share(found[g], aims[g]) for g in symmetry.groups} for found in (before, after)))


def _corrected(
    symmetry: Symmetry, group: str, point: dict[str, Tensor], now: UnitStatistics, aim: UnitStatistics
) -> dict[str, Tensor]:
    running = [site.name for site in symmetry.groups[group] if site.buffer]
    if running:
        exact = {"running_mean": now.mean, "running_var": now.std.square() * now.count / max(now.count - 1, 1)}
        values = {name: exact[name.rpartition(".")[2]] for name in running}
        return {**point, **{name: value.to(point[name]) for name, value in values.items()}}
    weight, bias = f"{group}.weight", f"{group}.bias"
    if weight not in point or bias not in point:
        raise InvalidValueError(
            f"repair() needs a weight and a bias of layer {group!r} to put its correction in, and one is absent. Expected a layer with a "
            f"bias, or batch normalisation with running statistics behind it. Give the layer a bias of zero."
        )
    scale = torch.where(now.std > 1e-12 * aim.std, aim.std / now.std.clamp(min=1e-300), 1.0)
    w, b = point[weight], point[bias]
    shifted = (b.double() - now.mean) * scale + aim.mean
    scaled = w * scale.to(w).reshape(-1, *[1] * (w.dim() - 1))
    return {**point, weight: scaled, bias: shifted.to(b)}


def _share(now: UnitStatistics, aim: UnitStatistics) -> float:
    return float(now.std.square().mean() / aim.std.square().mean().clamp(min=1e-300))
