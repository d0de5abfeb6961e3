"""The executor: one chain, many tensors. It alone knows layouts, precision and compilation; the maths knows none of it.

``eager``: step by step on each tensor; the reference.
``leaf``:  one compiled function per chain, called tensor by tensor (1-D with dynamic length where the reach allows it).

Both run the same pure functions. A chain is cut into segments at its GROUP steps, because those need a sum over all
tensors before they can go on.
"""

from __future__ import annotations

import os
import shutil
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from fallline.core.transform import Transform, hyper_fields, named_steps, static_fields
from fallline.core.types import At, Reach, State

__all__ = ["COMPILE_FROM", "Fuse", "Leaf", "compiler_available", "compute_dtype", "create_state", "execute"]

Fuse = Literal["auto", "eager", "leaf"]
FUSE_MODES: tuple[str, ...] = get_args(Fuse)

COMPILE_FROM = 2**18
"""Elements from which ``auto`` compiles: below, guards and launch cost more than fusion saves."""

Named = tuple[tuple[str, Transform], ...]


@dataclass
class Leaf:
    """One tensor to step: the parameter (written in place), its gradient (read only), its state (written in place)."""

    p: Tensor
    g: Tensor
    t: Tensor  # 0-d int64 on the CPU: the step, from 1
    state: State
    u: Tensor | None = field(default=None)  # the update so far, between segments


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Arithmetic is in float32 for half-precision parameters, else in the parameter's own dtype."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def create_state(steps: Sequence[Transform], p: Tensor) -> State:
    """Every slot of every step for one parameter, in compute precision, named ``step.slot``."""
    like = p.detach().to(compute_dtype(p.dtype))
    return {f"{key}.{s}": init(step, like) for key, step in named_steps(steps) for s, init in step.slots.items()}


Batch = tuple[Sequence[Transform], Sequence[Leaf]]
"""Leaves that share the values of their hyperparameters."""


def execute(batches: Sequence[Batch], fuse: Fuse = "auto", loss: Tensor | None = None) -> None:
    """Take one step: ``p <- p - chain(g)`` and the new state, in place, for all leaves.

    The batches run one chain with different hyperparameters; a GROUP step sums over the leaves of all of them.
    """
    cut = [(_segments(tuple(named_steps(steps))), leaves) for steps, leaves in batches]
    total: Tensor | None = None
    for k in range(len(cut[0][0])):
        last = k == len(cut[0][0]) - 1
        for segments, leaves in cut:
            for leaf in leaves:
                run = _leaf if _compiles(fuse, segments[k], leaf.p) else _eager
                run(segments[k], leaf, loss, total, last)
        if not last:
            total = _total([(segments[k + 1][0][1], leaves) for segments, leaves in cut], loss)


def _segments(named: Named) -> list[Named]:
    """The chain, cut before every step of reach GROUP; a GROUP step that opens the chain is preceded by nothing."""
    cuts = [i for i, (_, step) in enumerate(named) if step.reach == Reach.GROUP]
    bounds = [0, *cuts, len(named)]
    return [named[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]


def _total(batches: Sequence[tuple[Transform, Sequence[Leaf]]], loss: Tensor | None) -> Tensor | None:
    terms = [
        step.measure(cast(Tensor, leaf.u), _at(leaf, int(leaf.t), loss, None))
        for step, leaves in batches
        for leaf in leaves
    ]
    return torch.stack([term.to(terms[0].device, terms[0].dtype) for term in terms]).sum() if terms else None


def _at(leaf: Leaf, t: int | Tensor, loss: Tensor | None, total: Tensor | None) -> At:
    dtype = compute_dtype(leaf.p.dtype)
    return At(leaf.p.detach().to(dtype), leaf.g.to(dtype), t, loss, total)


def apply(named: Named, u: Tensor, at: At, slots: State) -> tuple[Tensor, State]:
    """The maths of a segment, pure: (update, slots) -> (update, new slots)."""
    new: State = {}
    for key, step in named:
        u, changed = step.update(u, at, **{s: slots[f"{key}.{s}"] for s in step.slots})
        new.update({f"{key}.{s}": value for s, value in changed.items()})
    return u, new


def _eager(named: Named, leaf: Leaf, loss: Tensor | None, total: Tensor | None, last: bool) -> None:
    at = _at(leaf, int(leaf.t), loss, total)
    u, new = apply(named, at.g if leaf.u is None else leaf.u, at, leaf.state)
    _write(leaf, u, new, last)


def _write(leaf: Leaf, u: Tensor, new: State, last: bool) -> None:
    if last:
        if leaf.p.dtype == u.dtype:
            leaf.p.sub_(u)
        else:  # round once, from compute precision
            leaf.p.copy_(leaf.p.to(u.dtype) - u)
    else:
        leaf.u = u
    for key, value in new.items():
        leaf.state[key].copy_(value)


# -- leaf: one compiled function per chain ------------------------------------------------------------------------------


def _compiles(fuse: Fuse, named: Named, p: Tensor) -> bool:
    if fuse == "eager" or p.numel() < 2 or not named:
        return False
    if fuse == "auto":
        return p.numel() >= COMPILE_FROM and p.is_floating_point() and _usable(p.device.type)
    return True


def _leaf(named: Named, leaf: Leaf, loss: Tensor | None, total: Tensor | None, last: bool) -> None:
    arrays = [leaf.p.detach(), leaf.g, *([] if leaf.u is None else [leaf.u])]
    keys = [f"{key}.{s}" for key, step in named for s in step.slots]
    slots = [leaf.state[k] for k in keys]
    order: list[int] | None = None
    if max(step.reach for _, step in named) != Reach.MATRIX:
        order = _dense_order(leaf.p)
        like_p = [v for v in slots if v.shape == leaf.p.shape]
        if order is None or not all(v.permute(order).is_contiguous() for v in like_p):
            return _eager(named, leaf, loss, total, last)  # gaps or overlaps: there is no flat view
        arrays = [_flat(a, order) for a in arrays]
        slots = [_flat(v, order) if v.shape == leaf.p.shape else v for v in slots]
    hypers = [_as_tensor(getattr(step, f)) for _, step in named for f in hyper_fields(step)]
    step = _compiled(tuple((key, type(s), tuple(getattr(s, f) for f in static_fields(s))) for key, s in named), last)
    u, numbers = step(arrays, leaf.t, hypers, slots, loss, total)
    for key, value in numbers.items():
        leaf.state[key].copy_(value)
    if not last:
        leaf.u = u if order is None else u.view([leaf.p.shape[i] for i in order]).permute(_inverse(order))


def _as_tensor(value: Any) -> Tensor:
    """Hyperparameters reach compiled code as 0-d float64 tensors, so that a change never recompiles."""
    if isinstance(value, Tensor):
        return value.detach()
    return _number(float(value))


@lru_cache(maxsize=512)
def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _dense_order(p: Tensor) -> list[int] | None:
    """The order of dimensions in which a dense tensor is contiguous in memory, or None if it has gaps or overlaps."""
    strides = p.stride()
    order = sorted(range(p.dim()), key=lambda i: (-strides[i], i))
    return order if p.permute(order).is_contiguous() else None


def _inverse(order: list[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


def _flat(a: Tensor, order: list[int]) -> Tensor:
    return a.permute(order).contiguous().view(-1)


Structure = tuple[tuple[str, type[Transform], tuple[Any, ...]], ...]


@cache
def _compiled(structure: Structure, last: bool) -> Callable[..., Any]:
    """The compiled function of a segment; hyperparameters, step, loss and total are 0-d tensors, lengths are dynamic."""

    def run(
        arrays: list[Tensor],
        t: Tensor,
        hypers: list[Tensor],
        slots: list[Tensor],
        loss: Tensor | None,
        total: Tensor | None,
    ) -> Any:
        named, values = [], iter(hypers)
        for key, kind, statics in structure:
            fields: dict[str, Any] = {f: next(values) for f in kind._hypers}
            fields.update(zip(kind._statics, statics, strict=True))
            named.append((key, kind(**fields)))
        keys = [f"{key}.{s}" for key, kind, _ in structure for s in kind.slots]
        dtype = compute_dtype(arrays[0].dtype)
        p, g = arrays[0].to(dtype), arrays[1].to(dtype)
        u = arrays[2] if len(arrays) == 3 else g
        u, new = apply(tuple(named), u, At(p, g, t.to(torch.float64), loss, total), dict(zip(keys, slots, strict=True)))
        # Inductor (torch 2.13) passes 0-d float64 CPU inputs by value and loses writes to them, so they are returned.
        numbers = {key: new[key] for key, slot in zip(keys, slots, strict=True) if key in new and slot.dim() == 0}
        for key, slot in zip(keys, slots, strict=True):
            if key in new and slot.dim() > 0:
                slot.copy_(new[key])
        if last:
            arrays[0].copy_(p - u)
        return (None if last else u), numbers

    # Dynamo's cache (and its limit of recompilations) belongs to the code object, so each structure gets its own.
    label = "fallline_" + "_".join(key for key, _, _ in structure)
    code = run.__code__.replace(co_name=label)
    own = types.FunctionType(code, run.__globals__, label, run.__defaults__, run.__closure__)
    return torch.compile(own, dynamic=True, fullgraph=True)


@cache
def compiler_available(device: str = "cpu") -> bool:
    """Whether torch.compile can build kernels here: a C++ compiler for the CPU, Triton for CUDA."""
    if device == "cpu":
        names = (os.environ.get("CXX"), "g++", "clang++")
        return any(shutil.which(name) for name in names if name)
    try:
        from torch.utils._triton import has_triton

        return bool(has_triton())
    except ImportError:
        return False


@cache
def _usable(device: str) -> bool:
    """compiler_available, said once when it is missing and would have been used."""
    if compiler_available(device):
        return True
    what = "C++ compiler" if device == "cpu" else "Triton"
    warnings.warn(
        f"No {what} found: optimizer steps run eagerly (slower, same numbers). Install one to compile them.",
        stacklevel=2,
    )
    return False
