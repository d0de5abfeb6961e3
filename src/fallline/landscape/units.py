"""Outputs of hidden units on data: their means, deviations and correlations between two networks, summed batch by batch in float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fallline.core.errors import InvalidValueError, unknown
from fallline.core.types import Params
from fallline.landscape.points import MeanLoss

__all__ = ["UnitOutputs", "UnitStatistics", "pair_statistics"]


@dataclass(frozen=True)
class UnitStatistics:
    """Mean and standard deviation of each unit of a group over examples and places of a map, shape (units,), float64."""

    mean: Tensor
    std: Tensor
    count: int


class UnitOutputs:
    """The outputs of some layers of a model at any point, batch by batch: the layers are named as in ``named_modules``."""

    def __init__(self, loss: MeanLoss, groups: Sequence[str]) -> None:
        self.loss = loss
        known = dict(loss.oracle.module.named_modules())
        for group in groups:
            if group not in known:
                raise unknown("layer", group, known, "The groups of a symmetry are named after layers of the model.")
        self.layers = {group: known[group] for group in groups}

    def batches(self, points: Sequence[Params]) -> Iterator[list[dict[str, Tensor]]]:
        """For every batch the outputs at each of the points: group -> (samples, units), float64."""
        for _, batch in self.loss.batches:
            yield [self._outputs(point, batch) for point in points]

    def statistics(self, point: Params) -> dict[str, UnitStatistics]:
        """Mean and deviation of every unit over all data."""
        count: dict[str, int] = {}
        sums: dict[str, list[Tensor]] = {}
        for (outputs,) in self.batches([point]):
            for group, z in outputs.items():
                count[group] = count.get(group, 0) + len(z)
                add = [z.sum(0), z.square().sum(0)]
                sums[group] = [
                    a + b for a, b in zip(sums.get(group, [torch.zeros_like(x) for x in add]), add, strict=True)
                ]
        found = {}
        for group, (first, second) in sums.items():
            mean = first / count[group]
            found[group] = UnitStatistics(
                mean, (second / count[group] - mean.square()).clamp(min=0).sqrt(), count[group]
            )
        return found

    def _outputs(self, point: Params, batch: Any) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}

        def keep(group: str) -> Any:
            def hook(module: nn.Module, args: Any, result: Tensor) -> None:
                z = result.detach().double()
                maps = not isinstance(module, nn.Linear) and z.dim() > 2
                seen[group] = (z.movedim(1, -1) if maps else z).flatten(0, -2)

            return hook

        handles = [layer.register_forward_hook(keep(group)) for group, layer in self.layers.items()]
        try:
            with torch.no_grad(), self.loss.mode():
                self.loss.oracle.loss(point, batch)
        finally:
            for handle in handles:
                handle.remove()
        missing = sorted(set(self.layers) - set(seen))
        if missing:
            raise InvalidValueError(
                f"The loss never calls layer {missing[0]!r}. Expected a call of every layer that makes a group of units. Leave out "
                f"groups that the model does not use."
            )
        return seen


def pair_statistics(outputs: UnitOutputs, a: Params, b: Params) -> dict[str, Tensor]:
    """Correlations of all units at one point with all units at another, shape (units of a, units of b); 0 for units that are constant."""
    found = {}
    at = [outputs.statistics(point) for point in (a, b)]
    sums: dict[str, Tensor] = {}
    for x, y in outputs.batches([a, b]):
        for group in x:
            centred = [z[group] - s[group].mean for z, s in zip((x, y), at, strict=True)]
            sums[group] = sums.get(group, torch.zeros(())) + (centred[0].T @ centred[1]).cpu()
    for group, total in sums.items():
        one, two = (s[group] for s in at)
        size = one.count * one.std[:, None] * two.std
        found[group] = torch.where(size.cpu() > 0, total / size.cpu().clamp(min=1e-300), 0.0)
    return found
