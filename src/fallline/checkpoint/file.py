"""One file on disk: safetensors, with our document as JSON in its header and a SHA-256 over everything.

    8 bytes      length of the header
    header       {"__metadata__": {"format", "schema", "fallline", "digest", "document"}, name: {"dtype", "shape", ...}, ...}
    data         the tensors, contiguous, one after another

The digest is the SHA-256 of the header, with zeros in the digest's place, followed by each tensor's own SHA-256. This rule
holds for every schema, so that a damaged file is told from a newer one. Written by hand, because the safetensors package
needs all bytes in memory at once, cannot fsync, and cannot put a hash of the data before the data.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from fallline import __version__
from fallline.checkpoint import schema
from fallline.checkpoint.atomic import replacing
from fallline.core.errors import CheckpointError

__all__ = ["DTYPES", "Contents", "Place", "damaged", "memory", "read_file", "tensor_from", "write_file"]

FORMAT = "fallline checkpoint"
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
    torch.complex128: "F64",  # safetensors has no C128: pairs of F64, listed under "complex128"
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
_FROM_NAME = {name: dtype for dtype, name in reversed(DTYPES.items())}
_NO_DIGEST = "0" * 64
_ALIGNMENT = 64
_HASHERS = min(4, os.cpu_count() or 1)  # hashlib lets other threads run; one hashes about 1.5 GB/s


class Place(NamedTuple):
    """Where a tensor lies in its file, and the SHA-256 of its bytes."""

    begin: int
    end: int
    digest: str


class Contents(NamedTuple):
    """A file that was read: verified, but not yet migrated."""

    tensors: dict[str, Tensor]
    document: dict[str, Any]
    schema: int
    version: str


def write_file(path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> dict[str, Place]:
    """Write atomically and durably; one tensor at a time is copied to the CPU. Returns where each one lies."""
    # Largest elements first keeps every tensor aligned without gaps, which safetensors forbids.
    ordered = dict(sorted(tensors.items(), key=lambda item: -_element(item[1])))
    header, at = _header(ordered, document)
    places: dict[str, Place] = {}
    try:
        with replacing(path) as file, ThreadPoolExecutor(_HASHERS) as pool:
            file.write(header)
            hashes: deque[tuple[str, int, int, Future[str]]] = deque()
            begin = len(header)
            for key, tensor in ordered.items():
                data = _bytes(tensor)
                hashes.append((key, begin, begin + len(data), pool.submit(_sha256, data)))
                file.write(data)
                begin += len(data)
                if len(hashes) > _HASHERS:  # bounds how many copies are alive
                    _collect(hashes, places)
            while hashes:
                _collect(hashes, places)
            file.seek(at)
            file.write(_digest(header, places).encode())
    except OSError as error:
        raise CheckpointError(
            f"{path} could not be written: {error.strerror or error}. Expected a folder that exists and can be written, "
            f"with room for {sum(_size(t) for t in tensors.values()) / 1e6:.1f} MB. Nothing was changed; free space or "
            f"choose another path."
        ) from error
    return places


def read_file(path: Path) -> Contents:
    """Read and verify a whole file."""
    try:
        with open(path, "rb") as file:
            return _read(path, file)
    except OSError as error:
        advice = "Use fallline.checkpoint.load_sharded for a folder." if path.is_dir() else "Check the path."
        raise CheckpointError(
            f"{path} could not be read: {error.strerror or error}. Expected a file that fallline.save wrote. {advice}"
        ) from error


def damaged(path: Any, detail: str) -> CheckpointError:
    """The error for bytes that are not the ones saved."""
    return CheckpointError(
        f"{path} is damaged: {detail}. Expected the bytes that were saved. Restore it from a copy, or load an older "
        f"checkpoint."
    )


def tensor_from(data: Tensor, dtype: torch.dtype, shape: list[int]) -> Tensor:
    """Bytes as a tensor, without copying."""
    return data.view(dtype).reshape(shape)


def memory(data: Tensor) -> memoryview:
    """The memory of a uint8 tensor, writable."""
    return memoryview(data.numpy())  # type: ignore[arg-type]


def _collect(hashes: deque[tuple[str, int, int, Future[str]]], places: dict[str, Place]) -> None:
    key, begin, end, digest = hashes.popleft()
    places[key] = Place(begin, end, digest.result())


def _header(tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> tuple[bytes, int]:
    """The header with its length in front, and where the digest goes."""
    pairs = [key for key, t in tensors.items() if t.dtype == torch.complex128]
    metadata = {
        "format": FORMAT,
        "schema": str(schema.SCHEMA),
        "fallline": __version__,
        "digest": _NO_DIGEST,
        "document": json.dumps({**document, "complex128": pairs}, separators=(",", ":"), allow_nan=False),
    }
    entries: dict[str, Any] = {"__metadata__": metadata}
    begin = 0
    for key, t in tensors.items():
        end = begin + _size(t)
        shape = [*t.shape, 2] if t.dtype == torch.complex128 else list(t.shape)
        entries[key] = {"dtype": DTYPES[t.dtype], "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    return header, _digest_at(header)


def _digest_at(header: bytes) -> int:
    mark = b'"digest":"'
    found = header.find(mark)
    return found + len(mark) if found >= 0 else len(header)


def _digest(header: bytes, places: Mapping[str, Place]) -> str:
    at = _digest_at(header)
    total = hashlib.sha256(header[:at] + _NO_DIGEST.encode() + header[at + len(_NO_DIGEST) :])
    for place in places.values():
        total.update(place.digest.encode())
    return total.hexdigest()


def _read(path: Path, file: BinaryIO) -> Contents:
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = int.from_bytes(start, "little")
    text = file.read(length) if len(start) == 8 and length <= size - 8 else b""
    if not text.startswith(b"{"):
        raise CheckpointError(
            f"{path} ({size} bytes) is not a safetensors file, or its header is cut off. Expected a file that "
            f"fallline.save wrote. Check the path, or load an older checkpoint."
        )
    try:
        entries = json.loads(text)
        metadata = entries.pop("__metadata__", {})
        ours = metadata.get("format") == FORMAT
    except (ValueError, AttributeError, RecursionError) as error:
        raise damaged(path, "its header is not JSON") from error
    if not ours:
        raise CheckpointError(
            f"{path} is a safetensors file of another program. Expected a file that fallline.save wrote. "
            f"Load weights with safetensors.torch.load_file and model.load_state_dict."
        )
    header = start + text
    shapes = _layout(path, entries, size - len(header))
    buffers: dict[str, Tensor] = {}
    places: dict[str, Place] = {}
    with ThreadPoolExecutor(_HASHERS) as pool:
        hashes: deque[tuple[str, int, int, Future[str]]] = deque()
        for key, (begin, end, _, _) in shapes.items():
            buffers[key] = torch.empty(end - begin, dtype=torch.uint8)
            data = memory(buffers[key])
            if file.readinto(data) != len(data):  # type: ignore[attr-defined]
                raise damaged(path, "it became shorter while it was read")
            hashes.append((key, begin, end, pool.submit(_sha256, data)))
        while hashes:
            _collect(hashes, places)
    if _digest(header, places) != metadata.get("digest"):
        raise damaged(path, "its SHA-256 differs from the one it was saved with")
    version, number = metadata["fallline"], int(metadata["schema"])
    schema.require_known(number, version, path)
    document = json.loads(metadata["document"])
    tensors = {key: tensor_from(buffers[key], dtype, shape) for key, (_, _, dtype, shape) in shapes.items()}
    for key in document["complex128"]:
        tensors[key] = torch.view_as_complex(tensors[key])
    return Contents(tensors, document, number, version)


def _layout(path: Path, entries: dict[str, Any], available: int) -> dict[str, tuple[int, int, torch.dtype, list[int]]]:
    """Every tensor's place, dtype and shape, in file order; refuses what does not add up."""
    layout = {}
    position = 0
    try:
        for key, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            dtype, shape, (begin, end) = _FROM_NAME[entry["dtype"]], entry["shape"], entry["data_offsets"]
            if begin != position or end - begin != math.prod(shape) * dtype.itemsize or min(shape, default=0) < 0:
                raise ValueError(key)
            layout[key] = (begin, end, dtype, shape)
            position = end
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, "the places of its tensors do not add up") from error
    if position != available:
        raise damaged(path, f"it holds {available} bytes of data and its header tells of {position}")
    return layout


def _bytes(tensor: Tensor) -> memoryview:
    """The elements in order as bytes: of the tensor itself where it is contiguous on the CPU, else of a copy."""
    flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return memory(flat.view(torch.uint8))


def _sha256(data: memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def _element(tensor: Tensor) -> int:
    return tensor.dtype.itemsize


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.dtype.itemsize
