"""Checkpoints of ``torch.optim`` in our words and back: pure functions on the entries of one group or one parameter.

A method declares what torch calls its slots (``torch_state``); arguments have the same names on both sides. Slots are
converted to compute precision on the way in, which is exact unless the checkpoint is wider than the parameter, and to the
parameter's dtype on the way out, as ``torch.optim`` keeps them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from fallline.core.errors import InvalidValueError
from fallline.core.storage import Storage
from fallline.core.types import State

__all__ = [
    "Kept",
    "TorchState",
    "group_from_torch",
    "group_to_torch",
    "is_torchs",
    "state_from_torch",
    "state_to_torch",
]

TorchState: TypeAlias = Mapping[str, str | tuple[str, ...]]
"""torch's slot -> ours, or several of which one exists; ``"lr * rprop.scale"`` is a slot kept relative to an argument."""


class Kept(NamedTuple):
    """How our slots are stored: the storage, and for each slot whether it has a sign."""

    storage: Storage
    signed: Mapping[str, bool]


# Entries of torch's groups that a class of ours may lack, and the values that leave the numbers as they are.
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "foreach": (None, False, True),
    "fused": (None, False, True),
    "capturable": (None, False, True),
    "differentiable": (None, False),
    "decoupled_weight_decay": (True,),  # what AdamW implies
}
_ADDED_LATER = {"maximize": False, "decoupled_weight_decay": False}  # older versions of torch did not save them


def is_torchs(state_dict: Any) -> bool:
    """Whether this may be the state_dict of a torch.optim class: the right shape, and not saved by a method of ours."""
    groups = state_dict.get("param_groups") if isinstance(state_dict, dict) else None
    return groups is not None and "state" in state_dict and not any("method" in group for group in groups)


# -- from torch ---------------------------------------------------------------------------------------------------------


def group_from_torch(label: str, place: str, saved: Mapping[str, Any], wanted: Iterable[str]) -> dict[str, Any]:
    """A group of torch's class ``label``, with the entries that ours (``wanted``) has. Raises ValueError for others."""
    wanted = set(wanted)
    missing = sorted(wanted & _arguments(label) - saved.keys() - _ADDED_LATER.keys())
    foreign = sorted(saved.keys() & _all_arguments() - _arguments(label) - wanted - _HARMLESS.keys())
    if missing or foreign:
        seen = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has {', '.join(foreign)}"] * bool(foreign)
        raise InvalidValueError(
            f"{place} of the checkpoint {' and '.join(seen)}. Expected the entries of torch.optim.{label}. It was saved "
            f"by another class; load it into that one's counterpart."
        )
    for key in sorted(saved.keys() & _HARMLESS.keys() - wanted):
        idle = key == "decoupled_weight_decay" and saved.get("weight_decay") == 0
        if saved[key] not in _HARMLESS[key] and not idle:
            raise InvalidValueError(
                f"{place} of the checkpoint has {key}={saved[key]!r}, which fallline.optim.{label} cannot follow. Expected "
                f"{key}={_HARMLESS[key][-1]!r}. Load it into the class that has {key}, or set the entry if that is meant."
            )
    kept = {k: _copy(v) for k, v in saved.items() if k in wanted or k not in _HARMLESS}
    return {**{k: v for k, v in _ADDED_LATER.items() if k in wanted}, **kept}


def state_from_torch(
    where: str, saved: State, table: TorchState, fresh: State, group: Mapping[str, Any], kept: Kept
) -> State:
    """A parameter's state, in the form of ``fresh``; empty where torch has not yet begun to keep any.

    ``group`` holds the values that slots are relative to. Rounding begins anew: what torch rounded off is lost already.
    """
    stray = sorted(saved.keys() - table.keys() - {"step"})
    if stray:
        raise InvalidValueError(
            f"The checkpoint's state of {where} has {', '.join(stray)}. Expected {', '.join(table)}. It was saved by "
            f"another class; load it into that one's counterpart."
        )
    if not saved:
        return {}
    found = {slot: saved.get(key) for key in table if key != "step" for slot in _present(table[key], fresh)}
    absent = [key for key in table if _present(table[key], fresh) and saved.get(key) is None]
    if "step" not in table and (absent or not found):  # torch's SGD before its first step, or without momentum
        return {}
    if absent:
        raise InvalidValueError(
            f"The checkpoint's state of {where} lacks {', '.join(absent)}. Expected {', '.join(table)}. It was saved with "
            f"other options or by another class; build the optimizer as it was when saved."
        )
    count = _count(where, saved.get("step", group.get("step", 1)))
    state = {**fresh, "step": torch.full_like(fresh["step"], count)}
    for name, value in found.items():
        factor, slot = _relative(name, group)
        if not isinstance(value, Tensor):
            value = torch.tensor(float(value))  # type: ignore[arg-type]  # older versions kept plain numbers
        like = fresh[slot]
        if value.shape != like.shape:
            raise InvalidValueError(
                f"The checkpoint's {slot} of {where} has shape {tuple(value.shape)}. Expected {tuple(like.shape)}. Build "
                f"the model as it was when saved."
            )
        if factor == 0:
            raise InvalidValueError(
                f"The checkpoint has {name.split(' * ')[0]}=0, and {slot} of {where} is kept relative to it. Expected a "
                f"number above zero. Set the entry of the checkpoint's group to the value that it had."
            )
        # not in half precision: dividing rounds
        whole = value.detach().to(like.device, torch.promote_types(value.dtype, torch.float32)) / factor
        state.update(kept.storage.put(slot, whole, fresh, kept.signed[slot]))
    return state


def _count(where: str, step: Any) -> int:
    number = float(step)
    if not math.isfinite(number) or number < 0 or number != int(number):
        raise InvalidValueError(
            f"The checkpoint's step of {where} is {number!r}. Expected a whole number of steps. The checkpoint is damaged; "
            f"save it again."
        )
    return int(number)


# -- to torch -----------------------------------------------------------------------------------------------------------


def group_to_torch(label: str, place: str, group: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """A group as torch's class ``label`` has it; ``options`` are our structural ones, with their defaults."""
    for key, default in options.items():
        if key not in _arguments(label) and group[key] != default:
            raise InvalidValueError(
                f"{place} has {key}={group[key]!r}, which torch.optim.{label} does not know. Expected {default!r}. Only "
                f"what torch has can go on there; save with state_dict() instead."
            )
    ours = {
        k: v for k, v in group.items() if k not in ("step", "method") and k not in options.keys() - _arguments(label)
    }
    values = {k: float(v) if isinstance(v, Tensor) else v for k, v in ours.items()}
    implied = {"decoupled_weight_decay": True} if label == "AdamW" else {}
    return {**implied, **_execution(label), **values}


def state_to_torch(
    state: State, table: TorchState, dtype: torch.dtype, group: Mapping[str, Any], kept: Kept
) -> dict[str, Any]:
    """A parameter's state as torch keeps it: copies, in the parameter's dtype; empty where torch would keep none."""
    if "step" not in table and int(state["step"]) == 0:
        return {}
    out: dict[str, Any] = {}
    for key, target in table.items():
        if key == "step":
            out[key] = torch.tensor(float(state["step"]))
            continue
        for name in _present(target, state):
            factor, slot = _relative(name, group)
            value = kept.storage.take(slot, state, kept.signed[slot], torch.promote_types(dtype, torch.float32))
            out[key] = (value * factor).to(dtype)
    return out


# -- helpers ------------------------------------------------------------------------------------------------------------


def _present(target: str | tuple[str, ...], state: State) -> list[str]:
    """Those of a slot's names here that this state has."""
    names = (target,) if isinstance(target, str) else target
    return [name for name in names if name.split(" * ")[-1] in state]


def _relative(name: str, group: Mapping[str, Any]) -> tuple[float, str]:
    """``"lr * rprop.scale"`` -> (the group's lr, ``"rprop.scale"``)."""
    *factors, slot = name.split(" * ")
    return math.prod(float(group[f]) for f in factors), slot


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


@cache
def _arguments(label: str) -> frozenset[str]:
    return frozenset(inspect.signature(getattr(torch.optim, label)).parameters) - {"params"}


@cache
def _all_arguments() -> frozenset[str]:
    classes = [c for c in vars(torch.optim).values() if isinstance(c, type) and issubclass(c, torch.optim.Optimizer)]
    return frozenset().union(*(_arguments(c.__name__) for c in classes if c is not torch.optim.Optimizer))


@cache
def _execution(label: str) -> dict[str, Any]:
    """How torch runs it, at torch's defaults."""
    given = inspect.signature(getattr(torch.optim, label)).parameters
    return {k: given[k].default for k in ("foreach", "fused", "capturable", "differentiable") if k in given}
