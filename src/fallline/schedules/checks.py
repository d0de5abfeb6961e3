"""What the arguments of schedules must be, said once."""

from __future__ import annotations

import math
from typing import Any

from fallline.core.errors import InvalidTypeError, InvalidValueError

__all__ = ["fraction", "positive", "whole"]


def whole(owner: str, name: str, value: Any, least: int = 1) -> None:
    """Raise unless ``value`` is a whole number, at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidValueError(
            f"{owner} got {name}={value!r}. Expected a whole number, at least {least}. Write for example {name}={max(least, 100)}."
        )


def positive(owner: str, name: str, value: Any) -> None:
    """Raise unless ``value`` is a finite number above zero."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidTypeError(
            f"{owner} got {name}={value!r}. Expected a number above 0. Write for example {name}=100."
        )
    if not 0 < value < math.inf:
        raise InvalidValueError(
            f"{owner} got {name}={value!r}. Expected a finite number above 0. Write for example {name}=100."
        )


def fraction(owner: str, name: str, value: Any) -> None:
    """Raise unless ``value`` is a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidTypeError(
            f"{owner} got {name}={value!r}. Expected a number in [0, 1]. Write for example {name}=0.2."
        )
    if not 0 <= value <= 1:
        raise InvalidValueError(
            f"{owner} got {name}={value!r}. Expected a number in [0, 1]. Write for example {name}=0.2."
        )
