r"""Re-basin: the order of one network's hidden units that brings it closest to another network (Ainsworth et al., arXiv:2209.04836).

Weight matching maximises :math:`\langle \theta_A, \pi(\theta_B) \rangle` over permutations. For one group with the others held this is a
linear assignment problem; the groups take turns until nothing improves (algorithm 1 of the paper). Activation matching assigns each
group's units by the correlation of their outputs on data (Li et al., arXiv:1511.07543), with no turns to take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fallline.core.errors import InvalidValueError
from fallline.core.oracle import Oracle
from fallline.core.types import Params
from fallline.curvature.batches import Data
from fallline.landscape.drawing import axes_or_new
from fallline.landscape.points import MeanLoss, require_alike
from fallline.landscape.symmetry import Permutations, Symmetry
from fallline.landscape.units import UnitOutputs, pair_statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Matching", "activation_matching", "weight_matching"]


@dataclass(frozen=True)
class Matching:
    """A network with its units in the order of another's: ``params`` is the same function as before."""

    params: dict[str, Tensor]
    permutations: dict[str, Tensor]
    before: float  # cosine of the two points' angle over the tensors that hold units
    after: float
    scores: dict[
        str, Tensor
    ]  # group -> (units,), float64: cosine of the matched weights, or correlation of the outputs
    num_sweeps: int

    @property
    def num_moved(self) -> dict[str, int]:
        """How many units of each group changed places."""
        return {g: int((p != torch.arange(len(p))).sum()) for g, p in self.permutations.items()}

    def plot(self, ax: Axes | None = None) -> Axes:
        """How alike the matched units are, from best to worst, for each group."""
        ax = axes_or_new(ax)
        for group, score in self.scores.items():
            ax.plot(torch.linspace(0, 1, len(score)).numpy(), score.sort(descending=True).values.numpy(), label=group)
        ax.set(xlabel="share of units, best first", ylabel="likeness of the matched units")
        ax.legend(frameon=False)
        return ax


def weight_matching(
    symmetry: Symmetry, target: Params, point: Params, *, seed: int = 0, num_starts: int = 1, max_sweeps: int = 100
) -> Matching:
    """The permutation of ``point`` whose weights have the largest inner product with those of ``target``.

    matched = weight_matching(symmetry_of(model), first, second)
    interpolate(oracle, data, first, matched.params).barrier

    Args:
        seed: of the order in which the groups take turns, and of the starts.
        num_starts: the best of several: the order as it is, then random ones. Turns end at a local maximum.
        max_sweeps: stop there in any case.
    """
    if num_starts < 1 or max_sweeps < 1:
        raise InvalidValueError(
            f"weight_matching() got num_starts={num_starts}, max_sweeps={max_sweeps}. Expected at least 1 of each. Take 1 and 100."
        )
    require_alike(target, point)
    sizes = symmetry.sizes(point)
    found = []
    for start in range(num_starts):
        now = symmetry.random(point, seed=seed + start) if start else {g: torch.arange(n) for g, n in sizes.items()}
        now, sweeps = _take_turns(symmetry, target, point, now, seed + start, max_sweeps)
        found.append((_cosine(symmetry, target, symmetry.permute(point, now)), now, sweeps))
    _, best, sweeps = max(found, key=lambda one: one[0])
    moved = symmetry.permute(point, best)
    scores = {group: _unit_cosines(symmetry, group, target, moved) for group in symmetry.groups}
    return _matching(symmetry, target, point, best, scores, sweeps)


def activation_matching(oracle: Oracle, data: Data, symmetry: Symmetry, target: Params, point: Params) -> Matching:
    """The permutation of ``point`` whose units' outputs correlate most with those of ``target``, on data without labels' use.

    Outputs are taken where a group is made, before normalisation and activation.
    """
    require_alike(target, point)
    symmetry.sizes(point)
    loss = MeanLoss(oracle, data)
    best, scores = {}, {}
    for group, correlation in pair_statistics(UnitOutputs(loss, list(symmetry.groups)), target, point).items():
        best[group] = _assign(correlation)
        scores[group] = correlation[torch.arange(len(correlation)), best[group]]
    return _matching(symmetry, target, point, best, scores, 1)


def _take_turns(
    symmetry: Symmetry, target: Params, point: Params, now: dict[str, Tensor], seed: int, max_sweeps: int
) -> tuple[dict[str, Tensor], int]:
    drawn = torch.Generator().manual_seed(seed)
    names = list(now)
    for sweep in range(1, max_sweeps + 1):
        improved = False
        for i in torch.randperm(len(names), generator=drawn).tolist():
            group = names[i]
            others = symmetry.permute(point, {g: p for g, p in now.items() if g != group})
            gain = _similarity(symmetry, group, target, others)
            order, rows = _assign(gain), torch.arange(len(gain))
            if float(gain[rows, order].sum() - gain[rows, now[group]].sum()) > 1e-9 * float(gain.abs().sum()):
                now, improved = {**now, group: order}, True
        if not improved:
            return now, sweep
    return now, max_sweeps


def _similarity(symmetry: Symmetry, group: str, a: Params, b: Params) -> Tensor:
    """Inner products of the weights of all units of one network with all of the other, shape (units, units), float64."""
    total: Tensor | None = None
    for site in symmetry.groups[group]:
        if not site.buffer:
            n = len(total) if total is not None else a[site.name].shape[site.axis]
            x, y = (t[site.name].detach().double().unflatten(site.axis, (n, -1)).movedim(site.axis, 0) for t in (a, b))
            part = x.reshape(n, -1) @ y.reshape(n, -1).T
            total = part if total is None else total + part
    assert total is not None
    return total.cpu()


def _unit_cosines(symmetry: Symmetry, group: str, a: Params, b: Params) -> Tensor:
    lengths = [_similarity(symmetry, group, x, x).diagonal().sqrt() for x in (a, b)]
    return _similarity(symmetry, group, a, b).diagonal() / (lengths[0] * lengths[1]).clamp(min=1e-300)


def _assign(gain: Tensor) -> Tensor:
    """For each row the column given to it, the sum being the largest possible."""
    return torch.as_tensor(linear_sum_assignment(gain.numpy(), maximize=True)[1])


def _cosine(symmetry: Symmetry, a: Params, b: Params) -> float:
    names = {site.name for sites in symmetry.groups.values() for site in sites if not site.buffer}
    x, y = (torch.cat([p[name].detach().double().flatten() for name in sorted(names)]) for p in (a, b))
    return float(x @ y / (x.norm() * y.norm()).clamp(min=1e-300))


def _matching(
    symmetry: Symmetry, target: Params, point: Params, best: Permutations, scores: dict[str, Tensor], sweeps: int
) -> Matching:
    params = symmetry.permute(point, best)
    before, after = _cosine(symmetry, target, point), _cosine(symmetry, target, params)
    return Matching(params, dict(best), before, after, scores, sweeps)
