"""save_sharded and load_sharded: a checkpoint that every rank writes and reads, and any number of ranks can resume.

    folder/checkpoint.safetensors    the structure, extra, and where every chunk lies with its SHA-256; written last
    folder/rank-0.safetensors        chunks of rank 0, and so on

A save makes a new folder beside the target and renames it into place. Parameters and state go by name
(``optimizer.state.<parameter>.<slot>``), so ranks agree on them whatever their number.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn

from fallline.checkpoint import ranks
from fallline.checkpoint.atomic import fsync_folder
from fallline.checkpoint.file import read_file, write_file
from fallline.checkpoint.restore import check_model, require_parts, restore
from fallline.checkpoint.schema import upgraded
from fallline.checkpoint.storage import ChunkReader, ChunkWriter, dtype_of
from fallline.checkpoint.structure import Tensors
from fallline.checkpoint.whole import check_kinds, decode_parts, encode_parts, moved, state_dict_of
from fallline.core.errors import CheckpointError

__all__ = ["load_sharded", "save_sharded"]

INDEX = "checkpoint.safetensors"
_OURS = re.compile(r"(checkpoint|rank-\d+)\.safetensors")


def save_sharded(
    folder: str | os.PathLike[str],
    *,
    model: nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    extra: Any = None,
) -> None:
    """Write a folder, called by every rank: a crash at any moment leaves the old checkpoint or the new one, never a mix.

    DTensors are written in parts by the ranks that hold them. Plain tensors are taken to be equal on all ranks and are
    written once; ``extra`` is rank 0's. Works without a process group too.

    Raises:
        CheckpointError: on every rank if one fails; an older checkpoint at ``folder`` is untouched.
    """
    target = ranks.from_rank_0(lambda: Path(os.path.realpath(folder)))
    tensors, extras = Tensors(distributed=True), Tensors()
    with ranks.together("save_sharded"):
        document = encode_parts(model, _by_name(state_dict_of(optimizer)), None, tensors)
        document |= {"extra": encode_parts(None, None, extra, extras)["extra"]}
    new = ranks.from_rank_0(lambda: _new_folder(target))
    try:
        writer = ChunkWriter(new, ranks.rank())
        with ranks.together("save_sharded"):
            _run(dcp.save, dict(tensors.by_key), storage_writer=writer, planner=_save_planner())
        ranks.from_rank_0(lambda: _publish(new, target, extras.by_key, {**document, "chunks": writer.table}))
    except BaseException:
        if ranks.rank() == 0:
            shutil.rmtree(new, ignore_errors=True)
        raise


def load_sharded(
    folder: str | os.PathLike[str],
    *,
    model: nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    strict: bool = True,
    map_location: str | torch.device | None = None,
) -> Any:
    """Load what ``save_sharded`` wrote, on any number of ranks, called by every one; returns ``extra``.

    Arguments and errors are those of ``load``. Every rank reads and verifies the chunks it needs, into copies, before any
    rank changes its model or optimizer.
    """
    source = ranks.from_rank_0(lambda: _existing(Path(os.path.realpath(folder))))
    with ranks.together("load_sharded"):
        check_kinds(model, optimizer)
        contents = read_file(source / INDEX)
        if "chunks" not in contents.document:
            raise CheckpointError(
                f"{source / INDEX} is not the index of a sharded checkpoint. Expected a folder that save_sharded wrote. "
                f"Use fallline.load for one file."
            )
        require_parts(source, contents.document, model, optimizer)
        document = dict(contents.document)
        for part, wanted in (("model", model), ("optimizer", optimizer)):
            document[part] = None if wanted is None else document[part]  # what is not asked for is not read
        targets = _targets(document, contents.tensors, model, optimizer)
    with ranks.together("load_sharded"):
        _run(dcp.load, targets, storage_reader=ChunkReader(source, document["chunks"]), planner=_load_planner())
    with ranks.together("load_sharded"):
        parts = upgraded(decode_parts(document, {**targets, **contents.tensors}), contents.schema)
        parts["optimizer"] = _by_index(parts["optimizer"])
        if model is not None:
            check_model(source, parts, model, strict)
    with ranks.together("load_sharded"):  # not before all ranks have found that their models fit
        restore(source, parts, model, optimizer, strict)
    return moved(parts["extra"], map_location)


def _by_name(state_dict: dict[str, Any] | None) -> dict[str, Any] | None:
    """The state_dict with parameters named rather than numbered; those without a name keep their number, as text."""
    if state_dict is None:
        return None
    names: dict[Any, str] = {}
    for group in state_dict["param_groups"]:
        given = group.get("param_names") or [str(index) for index in group["params"]]
        names.update(zip(group["params"], given, strict=True))
    return {
        **state_dict,
        "state": {names[index]: state for index, state in state_dict["state"].items()},
        "param_groups": [{**g, "params": [names[index] for index in g["params"]]} for g in state_dict["param_groups"]],
    }


def _by_index(named: dict[str, Any] | None) -> dict[str, Any] | None:
    """The inverse of ``_by_name``."""
    if named is None:
        return None
    order = [name for group in named["param_groups"] for name in group["params"]]
    index = {name: i for i, name in enumerate(order)}
    return {
        **named,
        "state": {index[name]: state for name, state in named["state"].items()},
        "param_groups": [{**g, "params": [index[name] for name in g["params"]]} for g in named["param_groups"]],
    }


class _Asked(dict[str, Tensor]):
    """Collects the keys that a document refers to."""

    def __missing__(self, key: str) -> Tensor:
        return self.setdefault(key, torch.empty(0))


def _targets(
    document: Mapping[str, Any],
    known: Mapping[str, Tensor],
    model: nn.Module | None,
    optimizer: torch.optim.Optimizer | None,
) -> dict[str, Tensor]:
    """Empty tensors to read into, laid out over ranks as the live ones are; whole where no live one has that shape."""
    live, asked = Tensors(distributed=True), _Asked(known)
    encode_parts(model, _by_name(state_dict_of(optimizer)), None, live)
    decode_parts(document, asked)
    targets = {}
    for key in asked.keys() - known.keys():
        like, entry = live.by_key.get(key), document["chunks"][key]
        if like is None or list(like.shape) != entry["shape"]:
            targets[key] = torch.empty(entry["shape"], dtype=dtype_of(entry))
        else:
            targets[key] = torch.empty_like(like.detach(), dtype=dtype_of(entry))
    return dict(sorted(targets.items()))


def _run(work: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        work(*args, **kwargs, no_dist=ranks.alone())


def _new_folder(target: Path) -> Path:
    strangers = [p.name for p in target.iterdir() if not _OURS.fullmatch(p.name)] if target.is_dir() else []
    if strangers or (target.exists() and not target.is_dir()):
        seen = f"holds {strangers[0]!r}" if strangers else "is a file"
        raise CheckpointError(
            f"{target} {seen}, which save_sharded did not write. Expected a new folder or an older checkpoint, since it "
            f"is replaced as a whole. Choose another path."
        )
    new = _beside(target, "tmp")
    try:
        new.mkdir()
    except OSError as error:
        raise CheckpointError(
            f"{new} could not be made: {error.strerror}. Expected that {target.parent} exists and can be written. "
            f"Make it, or choose another path."
        ) from error
    return new


def _publish(new: Path, target: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    """Write the index and rename the folder into place. Between the two renames the old one waits as ``.name.old-...``."""
    write_file(new / INDEX, tensors, document)
    old = _beside(target, "old")
    try:
        if target.exists():
            os.rename(target, old)
        os.rename(new, target)
    except OSError as error:
        if old.exists():
            os.rename(old, target)
        raise CheckpointError(
            f"{new} could not be renamed to {target}: {error.strerror}. Expected a parent folder that can be written. "
            f"The older checkpoint, if any, is in place; choose another path."
        ) from error
    fsync_folder(target.parent)
    for leftover in [*_leftovers(target, "old"), *_leftovers(target, "tmp")]:
        shutil.rmtree(leftover, ignore_errors=True)


def _existing(target: Path) -> Path:
    """The folder, or the older one if a save was killed between its two renames."""
    for folder in (target, *_leftovers(target, "old")):
        if (folder / INDEX).is_file():
            return folder
    raise CheckpointError(
        f"{target} holds no {INDEX}. Expected a folder that save_sharded wrote. Check the path, or use fallline.load for "
        f"one file."
    )


def _beside(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{kind}-{secrets.token_hex(4)}")


def _leftovers(target: Path, kind: str) -> list[Path]:
    if not target.parent.is_dir():
        return []
    return [p for p in target.parent.iterdir() if p.name.startswith(f".{target.name}.{kind}-")]


def _save_planner() -> dcp.DefaultSavePlanner:
    return dcp.DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)


def _load_planner() -> dcp.DefaultLoadPlanner:
    return dcp.DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
