"""Optional packages: imported where they are used, with the command that installs them where they are missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fallline.core.errors import FalllineError

__all__ = ["need"]


def need(module: str, extra: str) -> Any:
    """The module. Raises FalllineError with the install command where it is not there."""
    try:
        return import_module(module)
    except ImportError as error:
        raise FalllineError(
            f"--to {extra} needs {module.partition('.')[0]}, which cannot be imported ({error}). Expected it beside fallline. Install it: "
            f"pip install 'fallline[{extra}]'"
        ) from None
