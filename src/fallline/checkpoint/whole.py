"""save, load and read: a model, its optimizer and anything else in one file."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fallline.checkpoint.file import read_file, write_file
from fallline.checkpoint.restore import require_parts, restore
from fallline.checkpoint.schema import upgraded
from fallline.checkpoint.structure import Tensors, decode, encode
from fallline.core.errors import CheckpointError, InvalidTypeError

__all__ = ["load", "read", "save"]


def save(
    path: str | os.PathLike[str],
    *,
    model: nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    extra: Any = None,
) -> None:
    """Write one file, atomically and durably: a crash at any moment leaves the old file or the new one.

    Args:
        path: the file; its folder must exist.
        model: saved by its state_dict. Tied parameters are written once.
        optimizer: any torch optimizer, saved by its state_dict.
        extra: None, bool, int, float, str, tensors, and lists, tuples and dicts (str or int keys) of them.

    Raises:
        CheckpointError: if something cannot be saved or written; an older file at ``path`` is untouched.

    Example:
        >>> import tempfile, torch, fallline
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = fallline.optim.AdamW(model.parameters(), lr=0.1)
        >>> path = tempfile.mkdtemp() + "/run.ckpt"
        >>> fallline.save(path, model=model, optimizer=optimizer, extra={"epoch": 3})
        >>> fallline.load(path, model=model, optimizer=optimizer)
        {'epoch': 3}
    """
    tensors = Tensors()
    document = encode_parts(model, state_dict_of(optimizer), extra, tensors)
    write_file(Path(path), tensors.by_key, document)


def load(
    path: str | os.PathLike[str],
    *,
    model: nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    strict: bool = True,
    map_location: str | torch.device | None = None,
) -> Any:
    """Load into ``model`` and ``optimizer``, all or nothing, and return what was saved as ``extra``.

    Args:
        strict: the model's names and dtypes must be the file's. Otherwise what agrees by name is loaded, and cast.
        map_location: the device of the tensors in ``extra``. Those of model and optimizer go to where these are.

    Raises:
        CheckpointError: if the file is damaged, foreign or newer, lacks a part, or does not fit the model.
        ValueError: if the optimizer refuses its part. Model and optimizer are then as they were.
    """
    check_kinds(model, optimizer)
    parts = _parts(Path(path))
    require_parts(path, parts, model, optimizer)
    restore(path, parts, model, optimizer, strict)
    return moved(parts["extra"], map_location)


def read(path: str | os.PathLike[str], *, map_location: str | torch.device | None = None) -> dict[str, Any]:
    """The parts of a file, verified: ``model`` and ``optimizer`` (their state_dicts or None), ``extra`` and ``meta``."""
    return moved(_parts(Path(path)), map_location)


def encode_parts(
    model: nn.Module | None, optimizer: Mapping[str, Any] | None, extra: Any, tensors: Tensors
) -> dict[str, Any]:
    """The document of a checkpoint: each part as JSON, its tensors added to ``tensors``."""
    check_kinds(model, None)
    weights = None if model is None else model.state_dict()
    versions = getattr(weights, "_metadata", None)  # torch migrates modules of older versions by it
    return {
        "model": encode(weights, ("model",), tensors),
        "versions": encode(None if versions is None else OrderedDict(versions), ("versions",), tensors),
        "optimizer": encode(optimizer, ("optimizer",), tensors),
        "extra": encode(extra, ("extra",), tensors),
    }


def decode_parts(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The parts that ``encode_parts`` got, the model's and the optimizer's as state_dicts."""
    parts = {name: decode(document[name], tensors) for name in ("model", "optimizer", "extra")}
    if parts["model"] is not None:
        parts["model"] = OrderedDict(parts["model"])
        versions = decode(document["versions"], tensors)
        if versions is not None:
            parts["model"]._metadata = OrderedDict(versions)
    return parts


def check_kinds(model: Any, optimizer: Any) -> None:
    """Refuse state_dicts and other things in the place of a model or an optimizer."""
    for name, value, kind in (("model", model, nn.Module), ("optimizer", optimizer, torch.optim.Optimizer)):
        if value is not None and not isinstance(value, kind):
            raise InvalidTypeError(
                f"{name} is a {type(value).__name__}. Expected a torch {kind.__name__}. Pass the object itself, and "
                f"other values as extra=."
            )


def state_dict_of(optimizer: torch.optim.Optimizer | None) -> dict[str, Any] | None:
    """The optimizer's state_dict, None without one."""
    check_kinds(None, optimizer)
    return None if optimizer is None else optimizer.state_dict()


def moved(value: Any, device: str | torch.device | None) -> Any:
    """``value`` with its tensors on ``device``; None leaves them on the CPU."""
    if device is None:
        return value
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, list | tuple):
        return type(value)(moved(item, device) for item in value)
    if isinstance(value, dict):
        for key, item in value.items():
            value[key] = moved(item, device)
    return value


def _parts(path: Path) -> dict[str, Any]:
    contents = read_file(path)
    if "chunks" in contents.document:
        raise CheckpointError(
            f"{path} is the index of a sharded checkpoint. Expected a file that fallline.save wrote. "
            f"Use fallline.checkpoint.load_sharded({str(path.parent)!r}, ...)."
        )
    parts = upgraded(decode_parts(contents.document, contents.tensors), contents.schema)
    return {**parts, "meta": {"schema": contents.schema, "fallline": contents.version}}
