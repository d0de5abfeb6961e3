"""Replacing a file in one instant: readers, and a machine that crashes, find the old file or the new one."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["fsync_folder", "replacing"]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of ``path`` when the block ends, and vanishes when it raises."""
    path = Path(os.path.realpath(path))  # a link stays a link
    _sweep(path)
    temp, file = _create(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temp, path)  # while the lock is held, so that nobody sweeps it
    except BaseException:
        with contextlib.suppress(OSError):
            temp.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable."""
    if os.name == "nt":  # folders cannot be opened there
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _create(path: Path) -> tuple[Path, BinaryIO]:
    while True:
        temp = path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}")
        # 0o666 less the umask, as open() would; tempfile's 0o600 would hide the checkpoint from the group.
        file = os.fdopen(os.open(temp, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666), "wb")
        _lock(file.fileno())
        if temp.exists():  # not swept between its creation and its lock
            return temp, file
        file.close()


def _sweep(path: Path) -> None:
    """Delete what killed processes left behind. The lock of a live one is held, and the kernel drops a dead one's."""
    for stale in path.parent.glob(f".{_escaped(path.name)}.tmp-*"):
        with contextlib.suppress(OSError), open(stale, "rb+") as file:
            if _lock(file.fileno()):
                stale.unlink()


def _lock(fd: int) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by another process, or a file system without locks
        return False
    return True


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
