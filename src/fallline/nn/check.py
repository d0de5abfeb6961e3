"""Refusals of this package: one sentence each for what was seen, what was expected, and what to do."""

from __future__ import annotations

from fallline.core.errors import InvalidTypeError, InvalidValueError

__all__ = ["demand", "demand_count", "demand_type"]


def demand(ok: bool, seen: str, expected: str, todo: str) -> None:
    """Raise InvalidValueError with these three parts unless ``ok``."""
    if not ok:
        raise InvalidValueError(f"{seen}. {expected}. {todo}.")


def demand_count(where: str, name: str, value: object, least: int = 1) -> None:
    """The value is a whole number of at least ``least``."""
    ok = isinstance(value, int) and not isinstance(value, bool) and value >= least
    demand(
        ok,
        f"{where} got {name}={value!r}",
        f"Expected a whole number, at least {least}",
        f"Pass {name}={max(least, 4)}",
    )


def demand_type(ok: bool, seen: str, expected: str, todo: str) -> None:
    """Raise InvalidTypeError with these three parts unless ``ok``."""
    if not ok:
        raise InvalidTypeError(f"{seen}. {expected}. {todo}.")
