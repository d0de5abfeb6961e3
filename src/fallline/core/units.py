"""Units of work: a tensor by itself, or many small ones side by side in flat buffers.

A call costs about the same for four thousand elements as for four million, so small tensors are stepped together. Their
state lives in the flat buffers for good, each slot a view; parameters and gradients stay where they are and are copied in
and out, so nothing changes that a model promises about its parameters.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, MutableMapping, Sequence
from itertools import chain, groupby
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fallline.core.storage import compute_dtype
from fallline.core.types import Reach

__all__ = [
    "ARENA_MEMBER",
    "Arena",
    "Arrays",
    "Group",
    "Leaf",
    "Unit",
    "Watch",
    "dense_order",
    "make_arenas",
    "step_counts",
]

_values = operator.methodcaller("values")

ARENA_MEMBER = 2**16
"""Elements up to which a tensor joins an arena: beyond, copying in and out costs more than a call."""

ARENA_SIZE = 2**19
"""Elements of one arena at most: its buffers then stay in the processor's cache from copying in to copying out."""

DEVICE_MEMBER, DEVICE_SIZE = 2**20, 2**26
"""The same on a GPU, which a matrix of a thousand rows does not fill, and where copies are cheap."""

STACK_FROM = 16
"""Tensors of one shape from which stacking them is faster than copying one by one."""

Arrays: TypeAlias = dict[str, Tensor]
"""What a segment reads and writes: ``p``, ``g``, between segments ``u``, and everything stored for the parameter."""

Group: TypeAlias = tuple[Any, ...]
"""A process group over which a parameter is sharded, last in a tuple whose other entries are the same on all ranks."""


class Watch:
    """Whether the slots of some tensors are still those that a unit has laid out or noted the addresses of."""

    def __init__(self, states: Sequence[MutableMapping[str, Tensor]]) -> None:
        self._states = list(states)
        self._held = self._now()

    def _now(self) -> list[Tensor]:
        return list(chain.from_iterable(map(_values, self._states)))  # map() takes a third of a loop's time

    def intact(self) -> bool:
        """The same tensors, each in its place."""
        now = self._now()
        return len(now) == len(self._held) and all(map(operator.is_, now, self._held))


class Leaf:
    """One tensor: the parameter (written in place), its gradient (read only), its state (written in place)."""

    scattered = False  # whether other ranks hold other parts of the parameter
    groups: tuple[Group, ...] = ()

    def __init__(self, p: Tensor, state: MutableMapping[str, Tensor], name: str = "", place: int = 0) -> None:
        self.p, self.state, self.name, self.place = p, state, name, place
        self.whole = p  # the parameter as the user knows it
        self.g: Tensor = p
        self.u: Tensor | None = None  # the update so far, between segments

    @property
    def steps(self) -> Tensor:
        """The step count, 0-d int64."""
        return self.state["step"]

    @property
    def num_elements(self) -> int:
        return self.p.numel()

    @property
    def leaves(self) -> list[Leaf]:
        """Its tensors: itself."""
        return [self]

    def give(self, gradients: Sequence[Tensor], ascend: bool) -> None:
        """The gradient of the next step."""
        (self.g,) = gradients
        if ascend:
            self.g = -self.g

    def release(self) -> None:
        """After a step: hold on to no gradient, nor to what was between segments."""
        self.g, self.u = self.p, None

    def each(self) -> list[Leaf]:
        """The unit's tensors, each with its own gradient."""
        return [self]

    def gradients(self) -> Tensor:
        """All gradients of the unit in one tensor."""
        return self.g

    def replace_gradients(self, clean: Callable[[Tensor], Tensor]) -> None:
        """Step with other gradients than the given ones, which stay as they are."""
        self.g = clean(self.g)

    def load(self) -> None:
        """Copy parameters in: they are here already."""

    def store(self) -> None:
        """Copy parameters out: they are there already."""

    def want_update(self) -> None:
        """Make room for the update between segments."""
        if self.u is None:
            self.u = torch.empty_like(self.p, dtype=compute_dtype(self.p.dtype))

    def arrays(self, reach: Reach, flat: bool = True, slots: Collection[str] = ()) -> Iterator[tuple[Arrays, bool]]:
        """What a segment that has these slots works on, and whether it has a batch dimension; flat if asked for and memory
        allows it."""
        held = {k: v for k, v in self.state.items() if k != "step"}
        arrays = {"p": self.p.detach(), "g": self.g, **({} if self.u is None else {"u": self.u}), **held}
        flat = flat or any(v.dtype is torch.uint8 for v in held.values())  # blocks are those of the flat tensor
        # A 0-d parameter stays one: nothing tells its slots from numbers.
        order = dense_order(self.p) if flat and reach < Reach.MATRIX and self.p.dim() > 0 else None
        if order is not None:
            shaped = {k for k, v in arrays.items() if v.shape == self.p.shape}
            if all(arrays[k].permute(order).is_contiguous() for k in shaped if k != "g"):
                arrays = {k: v.permute(order).contiguous().view(-1) if k in shaped else v for k, v in arrays.items()}
        yield arrays, False


class Arena:
    """Small tensors of one dtype and equal step counts, sorted so that equal shapes stand together.

    An ELEMENT segment sees one flat array; any other sees stacks of equal shapes with a leading batch dimension.
    """

    scattered = False  # as an ELEMENT chain sees it

    def __init__(self, leaves: Sequence[Leaf]) -> None:
        self.leaves = list(leaves)
        self.groups = tuple(dict.fromkeys(group for leaf in self.leaves for group in leaf.groups))
        self.sizes = [leaf.num_elements for leaf in self.leaves]
        self.num_elements = sum(self.sizes)
        self.p = self.leaves[0].p
        self.u: Tensor | None = None
        self.blocks = self._find_blocks()
        self.steps = torch.stack([leaf.steps for leaf in self.leaves])
        self.buffers: Arrays = {}  # slots of the parameters' shapes, flat
        self.numbers: Arrays = {}  # slots of one number per tensor, shape (tensors,)
        self.stacks: dict[str, list[Tensor]] = {}  # slots of any other shape: a stack for every block
        for key in self.leaves[0].state:
            self._move_in(key)
        self._watch = Watch([leaf.state for leaf in self.leaves])
        self._parameters = [leaf.p.detach() for leaf in self.leaves]
        self._g = self._empty()
        self._g_views = self._views(self._g)

    def _empty(self, dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(self.num_elements, dtype=dtype or self.p.dtype, device=self.p.device)

    def _find_blocks(self) -> list[tuple[slice, slice, tuple[int, ...], tuple[int, ...]]]:
        """(members, elements, shape, strides) of every stack of equal shapes and strides."""
        blocks, member, element = [], 0, 0
        for (shape, stride), group in groupby(self.leaves, key=_form):
            count = len(list(group))
            size = count * self.sizes[member]
            blocks.append((slice(member, member + count), slice(element, element + size), shape, stride))
            member, element = member + count, element + size
        return blocks

    def _move_in(self, key: str) -> None:
        """Give a slot of all members common memory and each member its view."""
        values = [leaf.state[key] for leaf in self.leaves]
        views: Sequence[Tensor]
        if key == "step":
            views = self.steps.unbind()
        elif all(v.shape == leaf.p.shape for v, leaf in zip(values, self.leaves, strict=True)):
            self.buffers[key] = self._empty(values[0].dtype)
            views = self._views(self.buffers[key])
            torch._foreach_copy_(list(views), values)
        elif all(v.dim() == 0 for v in values):
            self.numbers[key] = torch.stack(values)
            views = self.numbers[key].unbind()
        else:
            self.stacks[key] = [torch.stack(values[members]) for members, *_ in self.blocks]
            views = [view for stack in self.stacks[key] for view in stack.unbind()]
        for leaf, view in zip(self.leaves, views, strict=True):
            leaf.state[key] = view

    def _views(self, buffer: Tensor) -> list[Tensor]:
        """The members' parts of a flat buffer, with the parameters' shapes and strides."""
        return [
            part.as_strided(leaf.p.shape, leaf.p.stride())
            for part, leaf in zip(torch.split(buffer, self.sizes), self.leaves, strict=True)
        ]

    def intact(self) -> bool:
        """Whether the members' state is still what lies in the buffers."""
        return self._watch.intact()

    def use(self, pool: dict[Any, Tensor]) -> None:
        """Take a buffer for parameters from a pool that arenas use one after the other."""
        key = (self.p.dtype, self.p.device)
        if key not in pool or pool[key].numel() < self.num_elements:
            pool[key] = self._empty()
        self._p = pool[key][: self.num_elements]
        self._p_views = self._views(self._p)

    def give(self, gradients: Sequence[Tensor], ascend: bool) -> None:
        """The gradients of the next step, one for each member; they are copied in."""
        self._copy_in(gradients, self._g, self._g_views)
        if ascend:
            self._g.neg_()

    def release(self) -> None:
        self.u = None

    def each(self) -> list[Leaf]:
        for leaf, g in zip(self.leaves, self._g_views, strict=True):
            leaf.g = g
        return self.leaves

    def gradients(self) -> Tensor:
        return self._g

    def replace_gradients(self, clean: Callable[[Tensor], Tensor]) -> None:
        self._g.copy_(clean(self._g))

    def load(self) -> None:
        self._copy_in(self._parameters, self._p, self._p_views)

    def _copy_in(self, tensors: Sequence[Tensor], buffer: Tensor, views: list[Tensor]) -> None:
        """Copy tensors into their places; many contiguous ones of one shape go faster as a stack."""
        if len(tensors) < STACK_FROM:
            torch._foreach_copy_(views, list(tensors))
            return
        for members, elements, shape, stride in self.blocks:
            block, plain = list(tensors[members]), shape and stride == _contiguous(shape)
            if plain and len(block) >= STACK_FROM and all(t.is_contiguous() for t in block):
                torch.stack(block, out=buffer[elements].view(len(block), *shape))
            else:
                torch._foreach_copy_(views[members], block)

    def store(self) -> None:
        torch._foreach_copy_(self._parameters, self._p_views)

    def want_update(self) -> None:
        if self.u is None:
            self.u = self._empty(compute_dtype(self.p.dtype))

    def arrays(self, reach: Reach, flat: bool = True, slots: Collection[str] = ()) -> Iterator[tuple[Arrays, bool]]:
        whole = {"p": self._p, "g": self._g, **({} if self.u is None else {"u": self.u}), **self.buffers}
        if reach == Reach.ELEMENT:
            # Numbers of ELEMENT steps depend on nothing but the steps taken, so the first member's stands for all.
            yield {**whole, **{k: v[0] for k, v in self.numbers.items()}}, False
            for value in (v for k, v in self.numbers.items() if k in slots):
                value.copy_(value[0].clone().expand_as(value))
            return
        for i, (members, elements, shape, stride) in enumerate(self.blocks):
            count = members.stop - members.start
            stack = {k: v[elements].view(count, -1) for k, v in whole.items()}
            if reach >= Reach.MATRIX:
                stack = {k: v.as_strided((count, *shape), (v.shape[1], *stride)) for k, v in stack.items()}
            stack.update({k: v[members] for k, v in self.numbers.items()})
            stack.update({k: v[i] for k, v in self.stacks.items()})
            yield ({k: v[0] for k, v in stack.items()}, False) if count == 1 else (stack, True)


Unit: TypeAlias = Leaf | Arena


def step_counts(leaves: Sequence[Leaf]) -> list[int]:
    """The step counts of leaves. Reading stalls a device, so those of a device are read together."""
    places: dict[torch.device, list[int]] = {}
    for i, leaf in enumerate(leaves):
        places.setdefault(leaf.steps.device, []).append(i)
    counts = [0] * len(leaves)
    for members in places.values():
        for i, count in zip(members, torch.stack([leaves[i].steps for i in members]).tolist(), strict=True):
            counts[i] = count
    return counts


def make_arenas(leaves: Sequence[Leaf], reach: Reach) -> list[Unit]:
    """Small leaves of equal dtype, device and step side by side, at most ARENA_SIZE elements together; others alone.

    So are leaves with random numbers or blocks of their own, and parts of a larger whole that a step must see.
    """
    units: list[Unit] = []
    joining: dict[Any, list[Leaf]] = {}
    for leaf, count in zip(leaves, step_counts(leaves), strict=True):
        member, _ = _sizes(leaf)
        alone = (
            leaf.p.dim() == 0
            or "stream" in leaf.state
            or (leaf.scattered and reach > Reach.ELEMENT)
            or any(v.dtype is torch.uint8 for v in leaf.state.values())
        )
        if alone or not 0 < leaf.num_elements <= member or dense_order(leaf.p) is None:
            units.append(leaf)
            continue
        kinds = tuple((k, v.dtype) for k, v in sorted(leaf.state.items()))
        numbers = {k: float(v) for k, v in leaf.state.items() if v.dim() == 0} if reach == Reach.ELEMENT else {}
        key = (leaf.p.dtype, leaf.p.device, kinds, count, tuple(sorted(numbers.items())) * (leaf.p.dim() > 0))
        joining.setdefault(key, []).append(leaf)
    for found in joining.values():
        batch: list[Leaf] = []
        for leaf in sorted(found, key=_form):
            if batch and sum(x.num_elements for x in batch) + leaf.num_elements > _sizes(leaf)[1]:
                units.append(_joined(batch))
                batch = []
            batch.append(leaf)
        units.append(_joined(batch))
    return units


def _sizes(leaf: Leaf) -> tuple[int, int]:
    """Elements of a member and of an arena at most, where this leaf lies."""
    return (ARENA_MEMBER, ARENA_SIZE) if leaf.p.device.type == "cpu" else (DEVICE_MEMBER, DEVICE_SIZE)


def _joined(leaves: list[Leaf]) -> Unit:
    return Arena(leaves) if len(leaves) > 1 else leaves[0]


def _form(leaf: Leaf) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(leaf.p.shape), leaf.p.stride()


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a contiguous tensor."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * size)
    return tuple(reversed(strides))


def dense_order(p: Tensor) -> list[int] | None:
    """The order of dimensions in which a dense tensor is contiguous in memory, or None if it has gaps or overlaps."""
    strides = p.stride()
    order = sorted(range(p.dim()), key=lambda i: (-strides[i], i))
    return order if p.permute(order).is_contiguous() else None
