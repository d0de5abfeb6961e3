"""Writing the report so that a reader sees the old file or the new one, never a part."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fallline.core.errors import FalllineError
from fallline.report.page import render

__all__ = ["put", "write"]


def write(results: Mapping[str, Any], path: str | Path) -> Path:
    """Render ``results`` and put the page at ``path``: temporary file, flush to disk, rename.

    Raises FalllineError if the results cannot be read or the file cannot be written; what stood there then stays.
    """
    return put(render(results), path)


def put(page: str, path: str | Path) -> Path:
    """Put a page at ``path``, whole or not at all."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise FalllineError(
            f"The report cannot be written to {str(path)!r}: {error.strerror}. Expected a file in an existing folder "
            f"that you may write to, on a disk with room. Choose another place, or make room there."
        ) from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path
