"""The executor: one chain, many tensors. It alone knows layouts, precision and compilation; the maths knows none of it.

``eager``: step by step on each tensor; the reference.
``leaf``:  one compiled function per chain, called tensor by tensor.
``flat``:  one call of native loops for all tensors where they lie, on a GPU a few launches of kernels; for what loops cannot
           express, the compiled function on flat buffers that hold the small tensors, and on each large tensor.
``blocks``: flat buffers that hold the small tensors, eagerly and block by block; needs no compiler.
``auto``:  flat where there is enough to do and a compiler, else blocks.

All run the same pure functions. A chain is cut into segments at its GROUP steps, because those need a sum over all tensors
before they can go on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fallline.core.bundle import Bundle
from fallline.core.gather import bundles_for, make_bundles
from fallline.core.kernel import (
    Kernel,
    Numbers,
    Segment,
    advance,
    as_number,
    compiler_available,
    measure,
    usable,
)
from fallline.core.sharding import Part
from fallline.core.spread import measured, pieces, step_parts
from fallline.core.types import Reach
from fallline.core.units import Arrays, Leaf, Unit, make_arenas

__all__ = ["COMPILE_FROM", "FUSE_MODES", "UNCOMPILED", "Batch", "Fuse", "compiler_available", "execute", "layout"]

Fuse = Literal["auto", "eager", "blocks", "leaf", "flat"]
FUSE_MODES: tuple[str, ...] = get_args(Fuse)
UNCOMPILED = ("eager", "blocks")
"""Those that run without a compiler."""

BUNDLE_FROM = 2**14
"""Elements of a group from which ``auto`` builds native loops: below, building them takes longer than many steps save."""

COMPILE_FROM = 2**20
"""Elements of a group from which ``auto`` has torch compile what loops cannot express: below, a call costs more than it saves."""

EAGER_BLOCK = 2**17
"""Elements that an eager ELEMENT segment takes at a time: its temporaries then stay in the processor's cache."""


@dataclass
class Batch:
    """Units that share the values of their hyperparameters, and how they run."""

    segments: Sequence[Segment]
    units: Sequence[Unit | Bundle]
    compiled: bool
    flat: bool  # without it, the reference: every tensor whole and in its own shape
    calls: int | None = None  # of step(), this one included


def layout(leaves: Sequence[Leaf], chain: Sequence[Segment], fuse: Fuse) -> tuple[list[Unit | Bundle], bool]:
    """How the leaves of a group are run: as they are, in bundles or in arenas, and whether what is in no bundle is compiled."""
    if fuse in ("eager", "leaf"):
        return list(leaves), fuse == "leaf"
    num_elements = sum(leaf.num_elements for leaf in leaves)
    bundles: list[Bundle] = []
    rest = list(leaves)
    if fuse == "flat" or (fuse == "auto" and num_elements >= BUNDLE_FROM and bundles_for(leaves)):
        bundles, rest = make_bundles(leaves, chain)
    compiled = fuse == "flat" or (
        fuse == "auto"
        and num_elements >= COMPILE_FROM
        and all(usable(device) for device in {leaf.p.device.type for leaf in rest})
    )
    reach = max((segment.reach for segment in chain), default=Reach.ELEMENT)
    return [*bundles, *make_arenas(rest, reach)], compiled


def execute(batches: Sequence[Batch], loss: Tensor | None = None, ok: Tensor | None = None) -> None:
    """Take one step: ``p <- p - chain(g)`` and the new state, in place, for all units.

    The batches run one chain with different hyperparameters; a GROUP step sums over the units of all of them. ``ok`` is a
    flag that leaves everything as it is where it is false, decided without reading it.
    """
    for batch in batches:
        for unit in batch.units:
            unit.steps.add_(1 if ok is None else ok)
    memo: dict[Any, Any] = {}
    total: Tensor | None = None
    for k, segment in enumerate(batches[0].segments):
        if segment.named:
            for batch in batches:
                hypers = [as_number(h) for h in batch.segments[k].hypers] if batch.compiled else []
                wide = segment.reach > Reach.ELEMENT
                for unit in batch.units:
                    if isinstance(unit, Bundle):
                        unit.run(k, batch.segments[k], _numbers(unit, loss, total, ok, batch.calls))
                    elif not (wide and unit.scattered):
                        _run(batch, batch.segments[k], unit, _numbers(unit, loss, total, ok, batch.calls), hypers, memo)
                if wide and (parts := _parts(batch)):
                    _run_parts(
                        batch,
                        batch.segments[k],
                        parts,
                        [_numbers(x, loss, total, ok, batch.calls) for x in parts],
                        memo,
                    )
        if not segment.last:
            total = _total(batches, k + 1, loss)


def _numbers(
    unit: Unit | Bundle, loss: Tensor | None, total: Tensor | None, ok: Tensor | None, calls: int | None = None
) -> Numbers:
    first = unit.steps.view(-1)[0]
    t = int(first) if first.device.type == "cpu" else first.to(torch.float64)
    several = total is not None and total.dim() > 0
    sums = (
        {f"total_{i}": x for i, x in enumerate(total.unbind())} if several and total is not None else {"total": total}
    )
    calls = None if isinstance(t, int) else calls
    return {"t": t, **{k: v for k, v in {"loss": loss, **sums, "ok": ok, "calls": calls}.items() if v is not None}}


def _parts(batch: Batch) -> list[Part]:
    return [unit for unit in batch.units if isinstance(unit, Part) and unit.scattered]


def _run_parts(
    batch: Batch, segment: Segment, parts: Sequence[Part], numbers: Sequence[Numbers], memo: dict[Any, Any]
) -> None:
    """Parts of larger wholes: only what sees single elements runs on them as on any tensor."""
    for piece in pieces(segment):
        if piece.reach > Reach.ELEMENT:
            step_parts(piece, parts, numbers)
            continue
        hypers = [as_number(h) for h in piece.hypers] if batch.compiled else []
        memo[id(hypers)] = hypers  # kept, since other entries go by its identity
        for part, given in zip(parts, numbers, strict=True):
            _run(batch, piece, part, given, hypers, memo)


def _run(
    batch: Batch, segment: Segment, unit: Unit, numbers: Numbers, hypers: list[Tensor], memo: dict[Any, Any]
) -> None:
    unit.load()
    if not segment.last:
        unit.want_update()
    for arrays, batched in unit.arrays(segment.reach, batch.flat, segment.slots):
        mine = segment.touched(arrays)
        if batch.compiled and segment.compiles and mine["p"].numel() > 1 and (batched or _compilable(mine, segment)):
            known = {k: v for k, v in numbers.items() if k != "calls"}
            Kernel.of(segment, mine, known, batched)(mine, known, hypers, memo)
        else:
            _eager(segment, mine, numbers, batched)
    if segment.last:
        unit.store()


def _compilable(arrays: Arrays, segment: Segment) -> bool:
    """A leaf with gaps in memory has no flat view; it runs eagerly unless its shape matters anyway."""
    return arrays["p"].dim() == 1 or segment.reach >= Reach.MATRIX


def _eager(segment: Segment, arrays: Arrays, numbers: Numbers, batched: bool) -> None:
    size = arrays["p"].numel()
    if segment.reach > Reach.ELEMENT or arrays["p"].dim() != 1 or size <= EAGER_BLOCK or not segment.sliceable(arrays):
        _write(arrays, _checked(segment, arrays, numbers, batched))
        return
    late: Arrays = {}
    for start in range(0, size, EAGER_BLOCK):
        block = {k: v[start : start + EAGER_BLOCK] if v.dim() else v for k, v in arrays.items()}
        out = _checked(segment, block, numbers, False)
        late = {k: v for k, v in out.items() if arrays[k].dim() == 0}  # every block sees the old numbers
        _write(block, {k: v for k, v in out.items() if k not in late})
    _write(arrays, late)


def _write(arrays: Arrays, out: Arrays) -> None:
    for key, value in out.items():
        arrays[key].copy_(value)


def _checked(segment: Segment, arrays: Arrays, numbers: Numbers, batched: bool) -> Arrays:
    """``advance``, with its guard only where it is needed: looking is cheap where reading a number stalls nothing."""
    if arrays["p"].device.type == "cpu" and "ok" not in numbers:
        out = advance(segment, arrays, numbers, guard=False, batched=batched)
        if all(math.isfinite(v.sum()) for v in out.values() if v.is_floating_point()):
            return out
    return advance(segment, arrays, numbers, guard=True, batched=batched)


def _total(batches: Sequence[Batch], k: int, loss: Tensor | None) -> Tensor | None:
    """The sum of what the GROUP step that opens segment ``k`` measures on every tensor; elementwise, if it is several numbers."""
    terms = []
    for batch in batches:
        parts = _parts(batch)
        given = [_numbers(part, loss, None, None) for part in parts]
        terms += measured(batch.segments[k], parts, given) if parts else []
        for unit in batch.units:
            if unit.scattered:
                continue
            numbers = _numbers(unit, loss, None, None)
            if isinstance(unit, Bundle):
                terms.append(unit.measure(k, batch.segments[k], numbers))
                continue
            unit.load()
            terms += [
                measure(batch.segments[k], a, numbers, batched, batch.compiled)
                for a, batched in unit.arrays(Reach.TENSOR, batch.flat)
            ]
    return torch.stack([term.to(terms[0].device, terms[0].dtype) for term in terms]).sum(0) if terms else None
