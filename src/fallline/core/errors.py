"""Error wording: near-match look-ups and the three parts every message has (seen, expected, what to do)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "FalllineError",
    "InvalidTypeError",
    "InvalidValueError",
    "NotFiniteError",
    "UnknownNameError",
    "nearest",
    "unknown",
]


class FalllineError(Exception):
    """A mistake in what the user asked for or supplied; the text says what was seen, expected, and what to do."""


class InvalidValueError(FalllineError, ValueError):
    """A value outside its domain, or a combination that means nothing."""


class InvalidTypeError(FalllineError, TypeError):
    """A value of the wrong type."""


class UnknownNameError(FalllineError, ValueError):
    """A name that is not registered; the text lists the nearest known ones."""


class NotFiniteError(RuntimeError):
    """Gradients that are not finite, where the policy is to raise, or too many steps in a row: the run has diverged."""


class CheckpointError(FalllineError, ValueError):
    """A checkpoint that cannot be written, is damaged, or does not belong to what it is loaded into."""


def nearest(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """The known names closest to ``name``, best first; names that contain it count as close."""
    known = list(known)
    lowered = {k.lower().replace("-", "_"): k for k in known}
    query = name.lower().replace("-", "_")
    close = difflib.get_close_matches(query, lowered, n=limit, cutoff=0.5)
    close += [k for k in lowered if len(query) > 2 and (query in k or k in query) and k not in close]
    return [lowered[k] for k in close[:limit]]


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> UnknownNameError:
    """The error for an unregistered name: ``unknown("method", "adamv", METHODS)``."""
    known = sorted(known)
    close = nearest(name, known)
    expected = f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join(known)}."
    return UnknownNameError(f"Unknown {kind} {name!r}. {expected}{' ' + hint if hint else ''}")
