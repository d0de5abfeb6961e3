"""Data that a formula makes: nothing to find, nothing to download, the same on every machine."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fallline.core.errors import FalllineError
from fallline.tasks.data import Arrays, DifferentDataWarning, digest
from fallline.tasks.task import Source

__all__ = ["Generated"]


@dataclass(frozen=True)
class Generated:
    """A corpus without files: ``make()`` gives its arrays.

    Arrays should be of whole numbers (fixed point), rounded far above the last bit, so that the SHA-256 holds everywhere.
    """

    key: str
    name: str
    origin: str
    size: str
    sha256: str
    make: Callable[[], Arrays]
    licence: str = "Apache-2.0, generated"

    def load(self, path: Path | str | None = None) -> tuple[Arrays, Source]:
        """The arrays and their source; made once in a process. The arrays are shared: do not change them.

        Raises FalllineError if a folder is given. Warns if this machine's arithmetic gives other numbers.
        """
        if path is not None:
            raise FalllineError(
                f"A data folder ({path}) was given for {self.name}. These data are generated and have no files. "
                f"Leave the folder out."
            )
        arrays, seen = _made(self.make)
        if seen != self.sha256:
            warnings.warn(
                DifferentDataWarning(
                    f"{self.name} came out with SHA-256 {seen[:12]}..., not the published {self.sha256[:12]}.... Results "
                    f"will not compare with published ones. Report the version of numpy and the machine."
                ),
                stacklevel=2,
            )
        return arrays, Source(self.name, self.licence, self.origin, seen)


@functools.cache
def _made(make: Callable[[], Arrays]) -> tuple[Arrays, str]:
    arrays = make()
    return arrays, digest(arrays)
