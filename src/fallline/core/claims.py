"""Claims: sentences of papers with a cheap check; of methods, and of everything else that the library offers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["CLAIMS", "FAMILIES", "Check", "Claim", "claim"]

Check: TypeAlias = Callable[[Any], Iterator[Any]]
"""Gets the lab with its problems and comparisons, yields outcomes."""

FAMILIES = (
    "schedules", "scaling", "nn", "objectives", "curvature", "second_order", "flows", "landscape", "dynamics",
)  # fmt: skip
"""Packages whose features make claims; those of methods stand with the methods."""


@dataclass(frozen=True)
class Claim:
    """One sentence of a paper, where it stands, and a cheap deterministic check (a generator of outcomes)."""

    text: str
    where: str
    check: Check
    subject: str = ""  # the feature, for claims that no method makes


CLAIMS: dict[str, list[Claim]] = {family: [] for family in FAMILIES}
"""Claims of features by family."""


def claim(subject: str, text: str, where: str) -> Callable[[Check], Check]:
    """Decorator: a claim about a feature, beside its code. The family is the package that the check stands in.

    @claim("sam", "on a quadratic, SAM equals its closed form", where="arXiv:2010.01412, eq. 3")
    def closed_form(lab):
        yield lab.close(found, expected)
    """

    def attach(check: Check) -> Check:
        family = check.__module__.split(".")[1]
        known = [c for c in CLAIMS[family] if (c.subject, c.text) != (subject, text)]  # a module may be loaded again
        CLAIMS[family] = [*known, Claim(text, where, check, subject)]
        return check

    return attach
