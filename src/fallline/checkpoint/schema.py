"""Schema versions: what a file written by an older fallline needs so that this one can load it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fallline.core.errors import CheckpointError

__all__ = ["MIGRATIONS", "SCHEMA", "require_known", "upgraded"]

SCHEMA = 1

# From schema n to n + 1: gets and returns {"model": ..., "optimizer": ..., "extra": ...}, None where a part is missing.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


def require_known(schema: int, version: str, path: Any) -> None:
    """Refuse a file that this version of fallline cannot read."""
    if schema > SCHEMA:
        raise CheckpointError(
            f"{path} has schema {schema}, written by fallline {version}. This fallline reads up to schema {SCHEMA}. "
            f"Upgrade fallline."
        )
    missing = [n for n in range(schema, SCHEMA) if n not in MIGRATIONS]
    if missing:
        raise CheckpointError(
            f"{path} has schema {schema}, written by fallline {version}. This fallline has no migration from schema "
            f"{missing[0]}. Load and save it again with a version in between."
        )


def upgraded(parts: dict[str, Any], schema: int) -> dict[str, Any]:
    """``parts`` as today's schema has them."""
    for n in range(schema, SCHEMA):
        parts = MIGRATIONS[n](parts)
    return parts
