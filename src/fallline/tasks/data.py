"""Finding data: the user's folder, FALLLINE_DATA, the system's, the vendored copy, and last a labelled stand-in.

Wherever the files are found, the same fixed subset of them is used, so that numbers agree between machines; the SHA-256
of the decoded arrays, published here for each corpus, says whether they do.
"""

from __future__ import annotations

import functools
import hashlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fallline.core.errors import FalllineError
from fallline.tasks.files import find
from fallline.tasks.task import Source

__all__ = ["Arrays", "Corpus", "DifferentDataWarning", "SyntheticDataWarning"]

Arrays = tuple[np.ndarray, ...]

VENDORED = Path(__file__).parent / "data_files"
VARIABLE = "FALLLINE_DATA"


class SyntheticDataWarning(UserWarning):
    """No data was found; made-up data of the same shapes stands in for it."""


class DifferentDataWarning(UserWarning):
    """The user's files are readable but are not the published data; numbers do not compare with published ones."""


@dataclass(frozen=True)
class Corpus:
    """Data known to fallline: its licence, its files, how they are read and what stands in for them.

    ``files`` are names without ``.gz`` or ``.xz``; they are looked for in a folder, in ``folder/key`` and in the
    folders ``also`` below it. ``read(*paths)`` decodes them and ``twin()`` makes arrays of the same shapes and types.
    """

    key: str
    name: str
    licence: str
    origin: str
    size: str
    sha256: str
    files: tuple[str, ...]
    read: Callable[..., Arrays]
    twin: Callable[[], Arrays]
    also: tuple[str, ...] = ()
    system: tuple[Path, ...] = ()

    def load(self, path: Path | str | None = None) -> tuple[Arrays, Source]:
        """The arrays and their source; read once in a process. The arrays are shared: do not change them.

        Raises FalllineError if ``path`` lacks the files, if a file is damaged, or if the system's or the vendored copy
        is not the published data. Warns if the user's own files differ from it, or if nothing was found.
        """
        arrays, source, warning = _load(self, None if path is None else Path(path), os.environ.get(VARIABLE))
        if warning:  # each time, not only when the data were read
            warnings.warn(warning, stacklevel=2)
        return arrays, source

    def locate(self, folder: Path) -> tuple[Path, ...] | None:
        """The paths of all files below ``folder``, or None if it has none of them."""
        for place in (folder / self.key, *(folder / name for name in self.also), folder):
            found = [find(place, name) for name in self.files]
            if all(found):
                return tuple(p for p in found if p)
            if any(found):
                missing = ", ".join(name for name, p in zip(self.files, found, strict=True) if not p)
                raise FalllineError(
                    f"{place} lacks {missing} of {self.name}. All of {', '.join(self.files)} are needed (plain, .gz or "
                    f".xz). Add what is missing, or remove the others."
                )
        return None


@functools.cache
def _load(corpus: Corpus, path: Path | None, variable: str | None) -> tuple[Arrays, Source, Warning | None]:
    for folder, label, own in _places(corpus, path, variable):
        paths = corpus.locate(folder)
        if paths is None and folder == path:
            raise FalllineError(
                f"{folder} has no data of {corpus.name}. Expected {', '.join(corpus.files)} (plain, .gz or .xz) in it or "
                f"in {corpus.key}/ below it. Correct the path, or leave it out to use the copy that comes with fallline."
            )
        if paths is not None:
            return _read(corpus, paths, label, own)
    message = (
        f"SYNTHETIC DATA: no copy of {corpus.name} was found, so made-up data of the same shapes stands in for it. "
        f"Results say nothing about {corpus.name}. Reinstall fallline, or set {VARIABLE} to a folder with "
        f"{', '.join(corpus.files)}."
    )
    arrays = corpus.twin()
    source = Source(f"SYNTHETIC stand-in for {corpus.name}", "none", "made up by fallline", digest(arrays), True)
    return arrays, source, SyntheticDataWarning(message)


def _places(corpus: Corpus, path: Path | None, variable: str | None) -> list[tuple[Path, str, bool]]:
    """Folders in the order of search, how to name them, and whether they are the user's own."""
    if path is not None:
        return [(path, f"the folder {path}", True)]
    if variable and not Path(variable).expanduser().is_dir():
        raise FalllineError(
            f"{VARIABLE} is {variable!r}, which is not a folder. Expected a folder with data. Correct it, or unset it to "
            f"use the copy that comes with fallline."
        )
    own = [(Path(variable).expanduser(), f"{VARIABLE}={variable}", True)] if variable else []
    system = [(folder, f"the system's {folder}", False) for folder in corpus.system]
    return [*own, *system, (VENDORED, "the copy that comes with fallline", False)]


def _read(corpus: Corpus, paths: tuple[Path, ...], label: str, own: bool) -> tuple[Arrays, Source, Warning | None]:
    arrays = corpus.read(*paths)
    seen = digest(arrays)
    source = Source(corpus.name, corpus.licence, f"{corpus.origin}; read from {label}", seen)
    if seen == corpus.sha256:
        return arrays, source, None
    what = f"{label} holds {corpus.name} with SHA-256 {seen[:12]}..., not the published {corpus.sha256[:12]}..."
    if not own:
        raise FalllineError(f"{what}. The files are damaged. Reinstall the package that they belong to ({paths[0]}).")
    fine = "Results will not compare with published ones. This is fine if the data is meant to be your own."
    return arrays, source, DifferentDataWarning(f"{what}. {fine}")


def digest(arrays: Arrays) -> str:
    """The SHA-256 of the arrays' bytes, one after the other."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()
