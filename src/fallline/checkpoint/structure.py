"""Nested dicts, lists, tuples, numbers and tensors as plain JSON that decodes to equal values.

Scalars and lists stand for themselves. Everything else is an object with one key, its tag: ``{"tuple": [...]}``,
``{"dict": [[key, value], ...]}`` (order and int keys survive), ``{"float": "nan"}``, ``{"tensor": "optimizer.state.0.step"}``.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fallline.checkpoint.file import DTYPES
from fallline.core.errors import CheckpointError

__all__ = ["Json", "Tensors", "decode", "encode", "is_distributed"]

Json: TypeAlias = Any
Path: TypeAlias = tuple[str | int, ...]

_DICTS = (dict, OrderedDict)


class Tensors:
    """The tensors of a structure by key. A tensor met again (a tied parameter) keeps its first key."""

    def __init__(self, *, distributed: bool = False) -> None:
        self.by_key: dict[str, Tensor] = {}
        self._keys: dict[tuple[Any, ...], str] = {}
        self._distributed = distributed

    def add(self, tensor: Tensor, path: Path) -> str:
        _require_plain(tensor, path, self._distributed)
        # Tied DTensors are written twice: a rank whose shard is empty could not see that they are one.
        shared = not is_distributed(tensor) and tensor.numel() > 0
        if shared and (identity := identity_of(tensor)) in self._keys:
            return self._keys[identity]
        key = ".".join(str(part) for part in path)
        while key in self.by_key:  # {"a.b": x, "a": {"b": y}}
            key += "~"
        self.by_key[key] = tensor
        if shared:
            self._keys[identity_of(tensor)] = key
        return key


def encode(value: Any, path: Path, tensors: Tensors) -> Json:
    """JSON for ``value``; its tensors are added to ``tensors``. ``path`` names the place in errors and keys."""
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, float):  # numpy's float64 is one
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, Tensor):
        return {"tensor": tensors.add(value, path)}
    if type(value) is list:
        return [encode(item, (*path, i), tensors) for i, item in enumerate(value)]
    if type(value) in (tuple, torch.Size):
        return {"tuple": [encode(item, (*path, i), tensors) for i, item in enumerate(value)]}
    if type(value) in _DICTS:
        for key in value:
            if type(key) not in (str, int):
                raise CheckpointError(
                    f"{_spell(path)} has the key {key!r} of type {type(key).__name__}. Checkpoints hold dicts with str or "
                    f"int keys. Rename it, or turn the dict into a list of pairs."
                )
        return {"dict": [[key, encode(item, (*path, key), tensors)] for key, item in value.items()]}
    raise CheckpointError(
        f"{_spell(path)} is {value!r} of type {type(value).__name__}. Checkpoints hold None, bool, int, float, str, list, "
        f"tuple, dict and tensors, never pickled objects. Save what it is built from, for instance its state_dict()."
    )


def decode(value: Json, tensors: Mapping[str, Tensor]) -> Any:
    """The value that ``encode`` got, with its tensors taken from ``tensors``."""
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    match tag:
        case "float":
            return float(content)
        case "tuple":
            return tuple(decode(item, tensors) for item in content)
        case "dict":
            return {key: decode(item, tensors) for key, item in content}
        case "tensor":
            return tensors[content]
    raise KeyError(tag)


def identity_of(tensor: Tensor) -> tuple[Any, ...]:
    """Equal for two tensors that are the same elements of the same memory."""
    signs = (tensor.is_conj(), tensor.is_neg())
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride(), signs)


def is_distributed(tensor: Tensor) -> bool:
    """Whether this is a DTensor, of which one rank holds a part."""
    return hasattr(tensor, "device_mesh") and hasattr(tensor, "placements")


def _require_plain(tensor: Tensor, path: Path, distributed: bool) -> None:
    if is_distributed(tensor):
        if not distributed:
            raise CheckpointError(
                f"{_spell(path)} is a DTensor of shape {tuple(tensor.shape)}. One file holds whole tensors. "
                f"Use fallline.checkpoint.save_sharded, called by every rank."
            )
    elif hasattr(tensor, "__tensor_flatten__"):
        raise CheckpointError(
            f"{_spell(path)} is a {type(tensor).__name__}. Checkpoints hold plain dense tensors. Save the tensors that it "
            f"is made of."
        )
    elif tensor.layout != torch.strided:
        raise CheckpointError(
            f"{_spell(path)} is a {tensor.layout} tensor. Checkpoints hold dense ones. Save its indices and values, "
            f"or tensor.to_dense()."
        )
    elif tensor.device.type == "meta":
        raise CheckpointError(
            f"{_spell(path)} is on the meta device and has no values. Checkpoints hold tensors with values. "
            f"Materialise the model first, with model.to_empty(device=...) and its initialisation."
        )
    if tensor.dtype not in DTYPES:
        raise CheckpointError(
            f"{_spell(path)} has dtype {tensor.dtype}. Checkpoints hold {', '.join(str(d).removeprefix('torch.') for d in DTYPES)}. "
            f"Convert it before saving."
        )


def _spell(path: Path) -> str:
    return str(path[0]) + "".join(f"[{part!r}]" for part in path[1:])
