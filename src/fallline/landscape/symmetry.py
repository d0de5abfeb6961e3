r"""Symmetries of a network: units that may change places or scale without changing the function.

Hidden units are a *group*: the outputs of one layer. Permuting a group permutes the rows of the layer that makes it, everything that
normalises it, and the columns of the layer that reads it. Where the activation is positively homogeneous (ReLU), unit i may also be scaled
by :math:`c_i > 0` on its way in and by :math:`1 / c_i` on its way out (Dinh et al., arXiv:1703.04933): the function stays, while the
curvature of the loss becomes as large as one likes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fallline.core.errors import InvalidValueError, unknown
from fallline.core.types import Params

__all__ = ["Permutations", "Site", "Symmetry"]

Permutations = Mapping[str, Tensor]
"""Group -> indices: the new unit i is the old unit ``indices[i]``."""


@dataclass(frozen=True)
class Site:
    """Where a group's units stand in a tensor."""

    name: str
    axis: int
    scale: int = 0  # 1: scales with the unit; -1: against it; 0: not at all
    buffer: bool = False  # running statistics, which are permuted but not compared


@dataclass(frozen=True)
class Symmetry:
    """The groups of units of a network, by the layer that makes them. ``symmetry_of(module)`` finds it; for a network that it does not
    know, write it down.

    Symmetry({"fc1": (Site("fc1.weight", 0, 1), Site("fc1.bias", 0, 1), Site("fc2.weight", 1, -1))}, homogeneous={"fc1"})
    """

    groups: Mapping[str, tuple[Site, ...]]
    homogeneous: frozenset[str] = frozenset()  # groups that may be scaled

    def sizes(self, point: Params) -> dict[str, int]:
        """The number of units of each group: the length of the first site's axis."""
        found: dict[str, int] = {}
        for group, sites in self.groups.items():
            for site in sites:
                if site.name not in point:
                    hint = (
                        "Take it with snapshot(oracle, buffers=True)."
                        if site.buffer
                        else "Take it by snapshot(oracle)."
                    )
                    raise InvalidValueError(
                        f"The point lacks {site.name!r}, which holds units of {group!r}. Expected all tensors that do. {hint}"
                    )
                length = point[site.name].shape[site.axis]
                if length % found.setdefault(group, length):
                    raise InvalidValueError(
                        f"{site.name!r} has {length} entries along axis {site.axis}. Expected {found[group]}, as many as "
                        f"{group!r} has units, or a multiple where a feature map is flattened. Correct the site's axis."
                    )
        return found

    def random(self, point: Params, *, seed: int = 0) -> dict[str, Tensor]:
        """A random permutation of every group."""
        drawn = torch.Generator().manual_seed(seed)
        return {group: torch.randperm(n, generator=drawn) for group, n in self.sizes(point).items()}

    def permute(self, point: Params, permutations: Permutations) -> dict[str, Tensor]:
        """The same function with its units in another order; groups that are not named stay."""
        sizes, found = self.sizes(point), {name: t.detach() for name, t in point.items()}
        for group, indices in permutations.items():
            if group not in self.groups:
                raise unknown("group of units", group, self.groups)
            if sorted(indices.tolist()) != list(range(sizes[group])):
                raise InvalidValueError(
                    f"The permutation of {group!r} is {_short(indices)}. Expected each of 0 ... {sizes[group] - 1} once. "
                    f"Make one with torch.randperm({sizes[group]})."
                )
            for site in self.groups[group]:
                t = found[site.name]
                split = t.unflatten(site.axis, (sizes[group], -1))
                taken = split.index_select(site.axis, indices.to(t.device))
                found[site.name] = taken.flatten(site.axis, site.axis + 1)
        return found

    def rescale(self, point: Params, factors: Mapping[str, float | Tensor]) -> dict[str, Tensor]:
        """The same function with a group's units scaled by a positive factor, or by one each, shape (units,)."""
        sizes, found = self.sizes(point), {name: t.detach() for name, t in point.items()}
        for group, factor in factors.items():
            if group not in self.homogeneous:
                raise unknown(
                    "group of units that may be scaled", group, self.homogeneous, "It needs ReLU or its like."
                )
            c = torch.as_tensor(factor, dtype=torch.float64)
            if c.dim() > 1 or (c.dim() == 1 and len(c) != sizes[group]) or not bool((c > 0).all()):
                raise InvalidValueError(
                    f"The factor of {group!r} is {_short(c)}. Expected a number above 0, or {sizes[group]} of them. "
                    f"Signs cannot pass through ReLU."
                )
            for site in self.groups[group]:
                if site.scale:
                    t = found[site.name]
                    split = t.unflatten(site.axis, (sizes[group], -1))
                    lead = (-1, *[1] * (split.dim() - site.axis - 1)) if c.dim() else ()
                    scaled = split * (c**site.scale).reshape(lead).to(t)
                    found[site.name] = scaled.flatten(site.axis, site.axis + 1)
        return found


def _short(t: Tensor) -> str:
    values = t.flatten().tolist()
    return f"{values[:6]}{' ...' if len(values) > 6 else ''}".replace("] ...", ", ...]")
