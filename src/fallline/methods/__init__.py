"""Methods, one file each, in folders by family. Importing this package registers every one of them in ``METHODS``.

Each method is also importable by name: ``from fallline.methods import adamw``.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from fallline.core.method import METHODS

for _module in pkgutil.walk_packages(__path__, prefix=f"{__name__}."):
    importlib.import_module(_module.name)

globals().update(METHODS)  # also where a method shares its family's name: methods.sgd is the method

__all__ = ["METHODS"]


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    return METHODS[name]  # registered since, or an error that lists the nearest names


def __dir__() -> list[str]:
    return [*__all__, *METHODS]
