"""The layout of a group: how its parameters are run, kept from step to step for as long as nothing moves."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fallline.core.bundle import Bundle
from fallline.core.execute import Fuse, layout
from fallline.core.kernel import Segment
from fallline.core.sharding import Part, aligned, is_dtensor, leaf_of, local
from fallline.core.types import State
from fallline.core.units import Arena, Leaf

__all__ = ["Layout"]


class Layout:
    """Units for the parameters of a group that have gradients."""

    def __init__(
        self,
        present: Sequence[Tensor],
        state: Mapping[Any, State],
        chain: Sequence[Segment],
        fuse: Fuse,
        names: Sequence[str],
    ) -> None:
        self._distributed = any(is_dtensor(p) for p in present)
        leaves = [leaf_of(p, state[p], name, i) for i, (p, name) in enumerate(zip(present, names, strict=True))]
        self.units, self.compiled = layout(leaves, chain, fuse)
        self._whole = list(present)
        self._ids = [id(p) for p in present]
        self._places = [local(p).data_ptr() for p in present]
        self._states = list(
            state.values()
        )  # of all parameters: looking them up one by one would take as long as a step
        self._arenas = [unit for unit in self.units if isinstance(unit, Arena)]
        self._joined = [unit for unit in self.units if not isinstance(unit, Leaf)]
        self._members = [[leaf.place for leaf in unit.leaves] for unit in self.units]
        self.parts = [leaf for leaf in leaves if isinstance(leaf, Part) and leaf.scattered]
        self._way = "compiled" if self.compiled else "eagerly"
        pool: dict[Any, Tensor] = {}
        for arena in self._arenas:
            arena.use(pool)

    def fits(self, present: Sequence[Tensor], state: Mapping[Any, State]) -> bool:
        """Whether these are the same parameters, in the same memory, with the same state."""
        return (
            list(map(id, present)) == self._ids
            and list(map(Tensor.data_ptr, map(local, present) if self._distributed else present)) == self._places
            and len(state) == len(self._states)
            and all(map(operator.is_, state.values(), self._states))
            and all(unit.intact() for unit in self._joined)
        )

    def leave(self, staying: Sequence[Tensor]) -> None:
        """Give parameters that are not in the next layout state of their own, so that the buffers can go."""
        kept = {id(p) for p in staying}
        for unit in self._joined:
            for leaf in unit.leaves:
                if id(leaf.whole) not in kept:
                    leaf.state.update({k: v.clone() for k, v in leaf.state.items()})

    def give(self, gradients: Sequence[Tensor], ascend: bool) -> None:
        """Hand every unit its gradients."""
        if self._distributed:
            gradients = [aligned(g, p) for g, p in zip(gradients, self._whole, strict=True)]
        for unit, members in zip(self.units, self._members, strict=True):
            unit.give([gradients[i] for i in members], ascend)

    def describe(self, calls: int) -> list[str]:
        """The layout in words, with the bytes that a step moves and holds for each parameter."""
        leaves = [leaf for unit in self.units for leaf in unit.leaves]
        bundled = [unit for unit in self.units if isinstance(unit, Bundle)]
        in_place = sum(len(unit.leaves) for unit in bundled)
        total = sum(leaf.num_elements for leaf in leaves)
        inside = [leaf for arena in self._arenas for leaf in arena.leaves]
        held = [{k: v for k, v in leaf.state.items() if k != "step"} for leaf in leaves]
        state = sum(v.numel() * v.element_size() for slots in held for v in slots.values())
        weights = sum(leaf.num_elements * leaf.p.element_size() for leaf in leaves)
        kinds = ", ".join(
            sorted({f"{k} {str(v.dtype).removeprefix('torch.')}" for slots in held for k, v in slots.items()})
        )
        lines = [f"tensors   {len(leaves)} with {total:,} elements"]
        if inside:
            number = sum(leaf.num_elements for leaf in inside)
            lines.append(f"together  {len(inside)} small ones with {number:,} elements in {len(self._arenas)} buffers")
        lines += [f"in place  {in_place} in {len(bundled)} tables of addresses"] * bool(in_place)
        alone = len(leaves) - len(inside) - in_place
        lines += [f"alone     {alone}"] * bool(alone)
        ways = sorted({unit.way for unit in bundled}) + [self._way] * (len(self.units) > len(bundled))
        lines.append(f"run       {' and '.join(ways)}, {calls * len(self.units)} calls a step")
        lines.append(f"state     {state / max(1, total):.4g} bytes per parameter: {kinds or 'none'}")
        lines.append(
            f"moves     {(3 * weights + 2 * state) / max(1, total):.4g} bytes per parameter and step, at least"
        )
        return lines
