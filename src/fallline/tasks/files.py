"""Reading data files: plain, gzip or xz; IDX arrays (the format of MNIST); clear errors for damaged ones."""

from __future__ import annotations

import gzip
import io
import lzma
import math
import struct
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np

from fallline.core.errors import FalllineError

__all__ = ["find", "read_bytes", "read_idx", "read_table"]

_DAMAGE = (EOFError, OSError, lzma.LZMAError, zlib.error)  # gzip.BadGzipFile is an OSError


def find(folder: Path, stem: str) -> Path | None:
    """``folder/stem``, or the same with ``.gz`` or ``.xz``; None if there is none of them."""
    return next((p for end in ("", ".gz", ".xz") if (p := folder / f"{stem}{end}").is_file()), None)


def read_bytes(path: Path, limit: int = -1) -> bytes:
    """The first ``limit`` bytes (all by default) of a file, uncompressed. Raises FalllineError if it is damaged."""
    try:
        with _open(path) as file:
            return file.read(limit)
    except PermissionError:
        raise FalllineError(
            f"{path} cannot be read: no permission. Data files must be readable. Change its mode."
        ) from None
    except _DAMAGE as error:
        raise _damaged(path, f"it cannot be decompressed ({error})") from error


def read_idx(path: Path, rows: int | None = None) -> np.ndarray:
    """The first ``rows`` rows (all by default) of an IDX file of unsigned bytes.

    Format: two zero bytes, the type (8), the rank, the sizes as big-endian 32-bit numbers, the values.
    """
    rank = (read_bytes(path, 4) + bytes(4))[3]
    head = read_bytes(path, 4 + 4 * rank)
    if head[:3] != b"\0\0\x08" or len(head) < 4 + 4 * rank or not 1 <= rank <= 4:
        raise _damaged(path, f"it starts with {head[:4]!r}, not with the mark of an IDX file of bytes")
    sizes = struct.unpack(f">{rank}I", head[4:])
    if rows is not None and sizes[0] < rows:
        raise FalllineError(f"{path} has {sizes[0]} rows. {rows} are needed. Give the complete file.")
    shape = (sizes[0] if rows is None else rows, *sizes[1:])
    content = read_bytes(path, len(head) + math.prod(shape))[len(head) :]
    if len(content) < math.prod(shape):
        raise _damaged(path, f"it has {len(content)} of {math.prod(shape)} values")
    return np.frombuffer(content, np.uint8).reshape(shape).copy()


def read_table(path: Path, columns: int) -> np.ndarray:
    """The numbers of a comma-separated file with one line of header: float64, (rows, columns)."""
    try:
        table = np.loadtxt(io.BytesIO(read_bytes(path)), delimiter=",", skiprows=1, ndmin=2)
    except ValueError as error:
        raise _damaged(path, f"it is not a table of numbers ({error})") from error
    if table.shape[1:] != (columns,):
        raise _damaged(path, f"it has {table.shape[1]} columns instead of {columns}")
    return table


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    return cast(IO[bytes], lzma.open(path, "rb")) if path.suffix == ".xz" else path.open("rb")


def _damaged(path: Path, why: str) -> FalllineError:
    return FalllineError(
        f"{path} is damaged: {why}. Expected a complete, unchanged data file. Get it again, or remove it so that the "
        f"copy that comes with fallline is used."
    )
