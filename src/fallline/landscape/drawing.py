"""Axes to draw on: the caller's, or those of a new figure that pyplot does not know of."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["axes_or_new"]


def axes_or_new(ax: Axes | None) -> Axes:
    """The given axes, or new ones; save them with ``ax.figure.savefig("slice.svg")``."""
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    return Figure(figsize=(6, 4), layout="constrained").add_subplot()
