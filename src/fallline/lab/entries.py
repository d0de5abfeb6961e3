"""Everything that a study can run by name: methods, and second-order solvers with the step along their direction."""

from __future__ import annotations

import fallline.methods
import fallline.second_order  # noqa: F401 (likewise)
from fallline.core.errors import InvalidValueError, unknown
from fallline.core.method import METHODS, Method
from fallline.second_order.entries import STEP_METHODS, StepMethod

__all__ = ["METHODS", "STEP_METHODS", "Method", "StepMethod", "entry_of", "gradient_method", "names"]


def names() -> list[str]:
    """Of all methods, then of all solvers."""
    return [*METHODS, *STEP_METHODS]


def entry_of(name: str) -> Method:
    """A method or, where it is a ``StepMethod``, a solver; a miss lists the nearest known names of both."""
    if name in STEP_METHODS:
        return STEP_METHODS[name]
    if name not in METHODS:
        raise unknown("method", name, names())
    return METHODS[name]


def gradient_method(name: str, tool: str) -> Method:
    """A method that steps on gradients alone, as ``tool`` needs one; a solver is an error that says so."""
    entry = entry_of(name)
    if isinstance(entry, StepMethod):
        raise InvalidValueError(
            f"{tool} got {name}, which solves for its direction with the model and the batch. Expected a method that steps on gradients. Write "
            f"for example --method adamw; `fallline compare` and `fallline run` take both kinds."
        )
    return entry
