"""Native code: C++ source to a loaded function, built once for a machine and kept on disk."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from functools import cache
from pathlib import Path

__all__ = ["build", "cache_folder", "compiler"]

# NaN and infinity keep their meaning, whole numbers wrap around; errno and traps, for which a loop must not stop, are no matter.
FLAGS = "-O3 -march=native -std=c++17 -fPIC -fno-math-errno -fno-trapping-math -fwrapv -ffp-contract=fast"


@cache
def compiler() -> str | None:
    """The C++ compiler: ``$CXX``, g++ or clang++, whichever is found first."""
    names = (os.environ.get("CXX"), "g++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def cache_folder() -> Path:
    """Where built functions are kept: ``$FALLLINE_CACHE``, or ``fallline`` in the user's cache folder."""
    given = os.environ.get("FALLLINE_CACHE")
    base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fallline"
    return base / "native"


@cache
def build(source: str) -> ctypes.CDLL | None:
    """The loaded library, from the cache or built now; None, said once, where that fails."""
    if not sys.platform.startswith("linux") or (found := compiler()) is None:
        return None
    try:
        return _load(source, found, cache_folder())
    except (OSError, RuntimeError):
        try:  # no home, one that cannot be written to, or a file system that does not execute
            return _load(source, found, Path(tempfile.gettempdir()) / f"fallline-{os.getuid()}")
        except (OSError, subprocess.SubprocessError) as error:
            _complain(found, error)
    except subprocess.SubprocessError as error:
        _complain(found, error)
    return None


def _load(source: str, found: str, folder: Path) -> ctypes.CDLL:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    made = folder / f"{_key(source, found)}.so"
    if not made.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            text, half, whole = (Path(work) / f"loops.{end}" for end in ("cpp", "o", "so"))
            text.write_text(source)
            # Linked without an OpenMP library of its own, it finds the one that torch has loaded: two would fight for the cores.
            _call([found, *shlex.split(FLAGS), "-fopenmp", "-c", str(text), "-o", str(half)])
            _call([found, "-shared", str(half), "-o", str(whole)])
            os.replace(whole, made)
    return ctypes.CDLL(str(made))


def _call(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)


def _key(source: str, found: str) -> str:
    return hashlib.blake2b(f"{source}\n{FLAGS}\n{_identity(found)}".encode(), digest_size=16).hexdigest()


@cache
def _identity(found: str) -> str:
    """The compiler and the processor that code was built by and for; a shared home may serve machines of many kinds."""
    version = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    kinds = sorted({line for line in lines if line.startswith(("flags", "Features", "model name", "CPU part"))})
    return "\n".join([version, platform.machine(), *kinds])


def _complain(found: str, error: Exception) -> None:
    said = getattr(error, "stderr", "") or str(error)
    warnings.warn(
        f"{found} could not build an optimizer step, which runs another way instead (slower, same numbers). It said: "
        f"{said.strip()[-500:]} Set CXX to a working C++ compiler, or FALLLINE_CACHE to a folder that can be written to.",
        stacklevel=2,
    )
