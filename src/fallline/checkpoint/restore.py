"""Putting checked parts into a live model and optimizer: both, or neither."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fallline.checkpoint.structure import identity_of, is_distributed
from fallline.core.errors import CheckpointError

__all__ = ["check_model", "require_parts", "restore"]


def require_parts(
    path: Any, parts: Mapping[str, Any], model: nn.Module | None, optimizer: torch.optim.Optimizer | None
) -> None:
    """Refuse a checkpoint that lacks a part that is asked for."""
    for name, wanted in (("model", model), ("optimizer", optimizer)):
        if wanted is not None and parts[name] is None:
            held = [part for part in ("model", "optimizer") if parts[part] is not None]
            raise CheckpointError(
                f"{path} holds no {name}{f', only the {held[0]}' if held else ''}. Expected one, since {name}= was given. "
                f"Leave it out, or load a checkpoint that was saved with {name}=."
            )


def restore(
    path: Any,
    parts: Mapping[str, Any],
    model: nn.Module | None,
    optimizer: torch.optim.Optimizer | None,
    strict: bool,
) -> None:
    """Load both parts; if either is refused, the model is put back and the optimizer, which checks first, was unchanged."""
    if model is None:
        if optimizer is not None:
            optimizer.load_state_dict(parts["optimizer"])
        return
    check_model(path, parts, model, strict)
    before = {name: _kept(value) for name, value in model.state_dict().items()}
    try:
        model.load_state_dict(parts["model"], strict=strict)
        if optimizer is not None:
            optimizer.load_state_dict(parts["optimizer"])
    except BaseException:
        _put_back(model, before)
        raise


def check_model(path: Any, parts: Mapping[str, Any], model: nn.Module, strict: bool) -> None:
    """Refuse a model whose names, shapes, dtypes or ties are not the checkpoint's."""
    saved, live = parts["model"], model.state_dict()
    missing, stray = [n for n in live if n not in saved], [n for n in saved if n not in live]
    if strict and (missing or stray):
        differences = [f"lacks {_few(missing)}"] * bool(missing) + [f"has also {_few(stray)}"] * bool(stray)
        raise CheckpointError(
            f"{path} {' and '.join(differences)}. Expected the names of this model. Build the model as it was when saved, "
            f"or load what agrees with strict=False."
        )
    for name, value in live.items():
        if name not in saved or not isinstance(value, Tensor):
            continue
        theirs = saved[name]
        shape = tuple(theirs.shape) if isinstance(theirs, Tensor) else type(theirs).__name__
        if shape != tuple(value.shape):
            raise CheckpointError(
                f"{path} has {name!r} of shape {shape}. Expected {tuple(value.shape)}. Build the model as it was when saved."
            )
        if strict and theirs.dtype != value.dtype:
            raise CheckpointError(
                f"{path} has {name!r} in {theirs.dtype}. Expected {value.dtype}, since a cast would lose digits in silence. "
                f"Convert the model first, or cast with strict=False."
            )
    for first, second in _tied(live):
        if first in saved and second in saved and not _same(saved[first], saved[second]):
            raise CheckpointError(
                f"{path} has different values for {first!r} and {second!r}, which this model ties. Expected equal ones. "
                f"Build the model as it was when saved."
            )


def _tied(live: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs of names of one tensor."""
    seen: dict[Any, str] = {}
    pairs = []
    for name, value in live.items():
        if isinstance(value, Tensor) and not is_distributed(value) and value.device.type != "meta" and value.numel():
            first = seen.setdefault(identity_of(value), name)
            if first != name:
                pairs.append((first, name))
    return pairs


def _same(a: Tensor, b: Tensor) -> bool:
    if a is b:
        return True
    a, b = (x.detach().contiguous().reshape(-1).view(torch.uint8) for x in (a, b))  # bitwise, NaN equals itself
    return torch.equal(a, b)


def _kept(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)


@torch.no_grad()
def _put_back(model: nn.Module, before: Mapping[str, Any]) -> None:
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            value.copy_(before[name])
        else:  # the extra state of a module
            model.get_submodule(name.rpartition(".")[0]).set_extra_state(before[name])


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
