"""One colour, marker and dash per method, the same in every figure; distinct to colour-blind eyes and in print.

Figures are drawn in the colours of ``SLOTS`` and ``ROLES``, which stand for CSS variables: `svg.py` puts the variables
in their place, so that a figure follows the page from light to dark.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["ROLES", "SLOTS", "VARIABLES", "Look", "looks"]

NUM_COLOURS = 8
SLOTS = [f"#0a00{i:02x}" for i in range(NUM_COLOURS)]
ROLES = {role: f"#0b00{i:02x}" for i, role in enumerate(["ink", "soft", "rule", "paper", "bad", "shade", "target"])}
VARIABLES = {colour: f"var(--c{i})" for i, colour in enumerate(SLOTS)} | {c: f"var(--{r})" for r, c in ROLES.items()}

MARKERS = ["o", "s", "^", "D", "v", "P", "X", "h"]
DASHES: list[Any] = ["-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 1.2))]
OWN = ["adamw", "nesterov", "lion", "sgd", "adam", "lamb", "rmsprop", "adagrad"]  # the same colour in every report


@dataclass(frozen=True)
class Look:
    """How a method is drawn; ``slot`` numbers its CSS colour."""

    slot: int
    colour: str
    marker: str
    dash: Any


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for every method: well-known ones always the same, the others what is free, in alphabetical order.

    Colours return after eight methods, but no two of 40 share colour and dash.
    """
    names = set(names)
    places = {name: OWN.index(name) for name in names if name in OWN}
    free = (i for i in itertools.count() if i not in places.values())
    return {name: _look(i) for name, i in {**places, **dict(zip(sorted(names - set(OWN)), free, strict=False))}.items()}


def _look(i: int) -> Look:
    turn = i // NUM_COLOURS
    slot = i % NUM_COLOURS
    return Look(slot, SLOTS[slot], MARKERS[(slot + 3 * turn) % len(MARKERS)], DASHES[(slot + turn) % len(DASHES)])
