"""Where torch.distributed.checkpoint puts its chunks: one file of ours per rank, and a table of every chunk's place and hash.

torch's own FileSystemWriter pickles its metadata. Here planning, deduplication of replicas and resharding are torch's, and
the bytes are ours. Each chunk is verified when it is read, whichever rank reads it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from fallline.checkpoint.file import damaged, memory, tensor_from, write_file

__all__ = ["ChunkReader", "ChunkWriter", "dtype_of"]


class ChunkWriter(StorageWriter):
    """Writes this rank's chunks to ``rank-<n>.safetensors``; ``table`` is filled on the coordinator."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.table: dict[str, Any] = {}
        self._folder = folder
        self._rank = rank

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        items = {f"{item.index.fqn}@{_numbers(item.index.offset)}": item for item in plan.items}
        tensors: dict[str, Any] = {key: planner.resolve_data(item) for key, item in items.items()}
        name = f"rank-{self._rank}.safetensors"
        places = write_file(self._folder / name, tensors, {"chunks": None}) if tensors else {}
        done: Future[list[WriteResult]] = Future()
        done.set_result(
            [
                WriteResult(item.index, places[key].end - places[key].begin, (name, *places[key]))
                for key, item in items.items()
            ]
        )
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        places = {result.index: result.storage_data for rank in results for result in rank}
        tensors: dict[str, Any] = metadata.state_dict_metadata
        for name, tensor in tensors.items():
            self.table[name] = {
                "dtype": str(tensor.properties.dtype).removeprefix("torch."),
                "shape": list(tensor.size),
                "chunks": [
                    [list(chunk.offsets), list(chunk.sizes), *places[MetadataIndex(name, chunk.offsets)]]
                    for chunk in tensor.chunks
                ],
            }

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        pass

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True

    def storage_meta(self) -> StorageMeta | None:
        return None


class ChunkReader(StorageReader):
    """Reads the chunks that a table describes, each verified by its hash."""

    def __init__(self, folder: Path, table: Mapping[str, Any]) -> None:
        self._folder = folder
        self._table = table

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        entries: dict[str, Any] = {}
        for name, entry in self._table.items():
            chunks = [
                ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for offsets, sizes, *_ in entry["chunks"]
            ]
            properties = TensorProperties(dtype=dtype_of(entry))
            entries[name] = TensorStorageMetadata(properties, torch.Size(entry["shape"]), chunks)
        return Metadata(entries)

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        items: dict[MetadataIndex, list[Any]] = {}
        for item in plan.items:
            items.setdefault(item.storage_index, []).append(item)
        for index, wanted in items.items():
            chunk = self._chunk(index)
            for item in wanted:
                part = chunk[tuple(slice(o, o + n) for o, n in zip(item.storage_offsets, item.lengths, strict=True))]
                target = planner.resolve_tensor(item).detach()
                target.copy_(part)
                planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _chunk(self, index: MetadataIndex) -> Tensor:
        entry = self._table[index.fqn]
        offset = list(index.offset or [])
        _, sizes, name, begin, end, digest = next(c for c in entry["chunks"] if c[0] == offset)
        data = torch.empty(end - begin, dtype=torch.uint8)
        view = memory(data)
        try:
            with open(self._folder / name, "rb") as file:
                file.seek(begin)
                complete = file.readinto(view) == len(view)
        except OSError as error:
            raise damaged(self._folder / name, f"it cannot be read ({error.strerror})") from error
        if not complete or hashlib.sha256(view).hexdigest() != digest:
            raise damaged(self._folder / name, f"the SHA-256 of {index.fqn} differs from the one it was saved with")
        return tensor_from(data, dtype_of(entry), sizes)

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        pass

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True


def dtype_of(entry: Mapping[str, Any]) -> torch.dtype:
    """The dtype that a table's entry names."""
    return getattr(torch, entry["dtype"])


def _numbers(offset: torch.Size | None) -> str:
    return ",".join(str(n) for n in offset or ())
