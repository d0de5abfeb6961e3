"""Rules for parameters: ``groups(model, {pattern: chain})`` sends each parameter to the first pattern it matches."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from fallline.core.errors import InvalidTypeError, InvalidValueError, nearest
from fallline.core.transform import Chain

__all__ = ["groups", "matches"]


def groups(model: nn.Module, rules: Mapping[str, Chain]) -> list[dict[str, Any]]:
    """Parameter groups for ``fallline.Optimizer``: one per pattern, first match wins, every parameter covered.

    A pattern is a list of globs on parameter names, separated by ``|``:
    ``{"*bias|*norm*": adamw(3e-4, weight_decay=0), "*": adamw(3e-4)}``.
    Raises ValueError if a parameter matches no pattern or a pattern matches no parameter.
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(
            f"Rules by name got {type(model).__name__} instead of a model. They need parameter names. "
            f"Pass the nn.Module itself, or a single chain for a plain list of parameters."
        )
    found: dict[str, list[tuple[str, nn.Parameter]]] = {pattern: [] for pattern in rules}
    names = []
    for name, parameter in model.named_parameters():
        names.append(name)
        home = next((pattern for pattern in rules if matches(name, pattern)), None)
        if home is None:
            raise InvalidValueError(
                f"Parameter {name!r} (shape {tuple(parameter.shape)}) matches none of the patterns {list(rules)}. Every "
                f"parameter needs a rule. Add '*' as the last pattern."
            )
        found[home].append((name, parameter))
    for pattern, members in found.items():
        if not members:
            close = nearest(pattern.strip("*"), names) or names[:3]
            why = (
                "earlier patterns take all it matches" if any(matches(n, pattern) for n in names) else "no name matches"
            )
            raise InvalidValueError(
                f"Pattern {pattern!r} has no parameters: {why}. Expected at least one, such as {', '.join(close)}. "
                f"Correct the pattern, reorder the rules, or drop it."
            )
    return [{"params": members, "chain": rules[pattern]} for pattern, members in found.items()]


def matches(name: str, pattern: str) -> bool:
    """Whether a parameter's name matches one of the globs of a pattern."""
    return any(fnmatchcase(name, glob.strip()) for glob in pattern.split("|"))
