"""Numbers in words: as many digits as mean something, and never nan or None."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

__all__ = [
    "ABSENT",
    "brief",
    "count",
    "duration",
    "enumeration",
    "exact",
    "factor",
    "hyper",
    "hypers",
    "interval",
    "number",
    "probability",
]

ABSENT = "–"


def number(x: float | None, digits: int = 3) -> str:
    """``x`` to that many significant digits: 0.0123, 12.3, 12300, 1.23e-7."""
    if x is None:
        return ABSENT
    if x == 0:
        return "0"
    exponent = math.floor(math.log10(abs(float(f"{x:.{digits - 1}e}"))))
    if exponent < -4 or exponent > 7:
        return _minus(_exponent(f"{x:.{digits - 1}e}"))
    return _fixed(x, max(0, digits - 1 - exponent))


def brief(x: float | None, digits: int = 3) -> str:
    """``number`` without trailing zeros: for targets, steps and bytes, which are often round."""
    text = number(x, digits)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def interval(x: float | None, low: float | None, high: float | None) -> tuple[str, str, str]:
    """A value and the ends of its interval, all to the same decimal: the second digit of the half-width."""
    if x is None or low is None or high is None or high <= low:
        return number(x, 4), number(low, 4), number(high, 4)
    width = (high - low) / 2
    decimals = 1 - math.floor(math.log10(width))
    if decimals > 6:
        return number(x, 4), number(low, 4), number(high, 4)
    return _fixed(x, max(0, decimals)), _fixed(low, max(0, decimals)), _fixed(high, max(0, decimals))


def hyper(value: float | bool | str | None) -> str:
    """A hyperparameter to three digits, in the notation of the command line: 0.003, 3.16e-5."""
    if value is None:
        return ABSENT
    if isinstance(value, bool | str):
        return str(value)
    return _exponent(f"{value:.3g}" if abs(value) < 1000 else f"{value:.6g}")


def hypers(values: dict[str, float | bool | str | None]) -> str:
    """``lr=0.003 b1=0.9``."""
    return " ".join(f"{name}={hyper(value)}" for name, value in values.items())


def probability(p: float | None) -> str:
    """A p-value: two digits, ``<0.001`` below that."""
    if p is None:
        return ABSENT
    if p < 0.001:
        return "<0.001"
    return "1" if p >= 0.995 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def count(x: float | None) -> str:
    """A whole number with thin spaces between thousands: 25 818."""
    return ABSENT if x is None else f"{round(x):,}".replace(",", "\u2009")


def factor(x: float | None) -> str:
    """A ratio: ``0.58×``."""
    return ABSENT if x is None else f"{number(x, 2)}×"


def duration(seconds: float | None) -> str:
    """``43 s``, ``12 min 5 s``, ``3 h 20 min``."""
    if seconds is None:
        return ABSENT
    if seconds < 60:
        return f"{number(seconds, 2)} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def enumeration(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def exact(x: float) -> str:
    """The shortest text that reads back as ``x``: for the machine-readable side of a cell."""
    return repr(x)


def _fixed(x: float, decimals: int) -> str:
    text = f"{x:.{decimals}f}"
    return _minus(text if float(text) else text.lstrip("-"))


def _minus(text: str) -> str:
    return "−" + text[1:] if text.startswith("-") else text


def _exponent(text: str) -> str:
    return re.sub(r"e([+-])0*(\d)", lambda m: f"e{'-' if m[1] == '-' else ''}{m[2]}", text)
