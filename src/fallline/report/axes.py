"""Axes of the figures: when a logarithmic one helps, ticks in the notation of the command line, labels that do not collide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fallline.core.space import Range
from fallline.report.words import hyper

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["NICE_DECADES", "Coordinate", "label_ends", "limits", "set_metric_axis", "spread_apart", "wants_log"]

NICE_DECADES = 1.3  # more than this factor of ten between the ends: a linear axis would hide the smaller values


def wants_log(values: Sequence[float]) -> bool:
    """Whether all values are positive and lie more than a factor of 20 apart."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > 10**NICE_DECADES


def limits(values: Sequence[float], log: bool, below: float = 0.06, above: float = 0.06) -> tuple[float, float]:
    """The ends of an axis around the values, with that share of the span free on either side."""
    if not values:
        return (1.0, 10.0) if log else (0.0, 1.0)
    low, high = (math.log10(min(values)), math.log10(max(values))) if log else (min(values), max(values))
    span = high - low or (0.3 if log else abs(high) * 0.1 or 1.0)
    low, high = low - below * span, high + above * span
    return (10**low, 10**high) if log else (low, high)


def set_metric_axis(axes: Axes, which: str, log: bool, ends: tuple[float, float]) -> None:
    """Scale, ends and plain-number ticks for the metric's axis (``which``: "x" or "y")."""
    from matplotlib import ticker

    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log" if log else "linear")
    (axes.set_xlim if which == "x" else axes.set_ylim)(*ends)
    if log:
        decades = math.log10(ends[1] / ends[0])
        steps = [1.0, 2.0, 5.0] if decades < 2.2 else [1.0]
        axis.set_major_locator(ticker.LogLocator(subs=steps, numticks=12))
        axis.set_major_formatter(ticker.FuncFormatter(lambda x, _: hyper(float(f"{x:.6g}"))))
        axis.set_minor_locator(ticker.LogLocator(subs=range(1, 10), numticks=12))
        axis.set_minor_formatter(ticker.NullFormatter())
    else:
        axis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


class Coordinate:
    """How one hyperparameter is laid out on an axis, from the scale of its declared range.

    A range uniform in log(1 - x) is drawn as 1 - x on a falling logarithmic axis, so that momenta read left to right.
    """

    def __init__(self, name: str, declared: str) -> None:
        self.range = Range.parse(declared)
        self.falling = self.range.scale == "one_minus_log"
        self.label = f"1 − {name}" if self.falling else name

    def __call__(self, value: float) -> float:
        return 1 - value if self.falling else value

    def set(self, axes: Axes, tried: Sequence[float] = ()) -> None:
        """Shade the declared range, and leave room on either side to show that nothing was tried there."""
        from matplotlib import ticker

        from fallline.report.palette import ROLES

        inside = sorted((self(self.range.low), self(self.range.high)))
        ends = limits([*inside, *map(self, tried)], self.range.scale != "linear", 0.08, 0.08)
        axes.set_xscale("linear" if self.range.scale == "linear" else "log")
        axes.set_xlim(*(reversed(ends) if self.falling else ends))
        axes.axvspan(*inside, color=ROLES["shade"], linewidth=0, zorder=0)
        if self.range.scale != "linear":
            subs = [1.0, 2.0, 5.0] if ends[1] / ends[0] < 100 else [1.0]
            axes.xaxis.set_major_locator(ticker.LogLocator(subs=subs, numticks=7))
            axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: hyper(float(f"{x:.6g}"))))
            axes.xaxis.set_minor_locator(ticker.LogLocator(subs=range(1, 10), numticks=12))
            axes.xaxis.set_minor_formatter(ticker.NullFormatter())


def label_ends(axes: Axes, ends: dict[str, tuple[float, str]]) -> None:
    """Each name at the right end of its curve, in its colour, with a thin leader to where the curve ends."""
    box = axes.bbox
    wanted = [axes.transData.transform((1.0, y))[1] - box.y0 for y, _ in ends.values()]
    placed = spread_apart(wanted, 13.0, 2, box.height)
    for (name, (_, colour)), start, end in zip(ends.items(), wanted, placed, strict=True):
        heights = [start / box.height, end / box.height]
        axes.plot([1.006, 1.024], heights, transform=axes.transAxes, clip_on=False, color=colour, linewidth=0.7)
        axes.text(1.03, heights[1], name, color=colour, va="center", transform=axes.transAxes)


def spread_apart(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The positions, moved as little as possible (least squares) to lie ``gap`` apart, and then shifted into [low, high].

    Isotonic regression of ``position - rank * gap`` by pooling neighbours that violate the order.
    """
    gap = min(gap, (high - low) / max(1, len(positions) - 1))
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    blocks: list[list[float]] = []
    for rank, i in enumerate(order):
        blocks.append([positions[i] - rank * gap])
        while len(blocks) > 1 and _mean(blocks[-2]) > _mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    free = [_mean(block) for block in blocks for _ in block]
    most = high - gap * (len(positions) - 1)
    out = [0.0] * len(positions)
    for rank, i in enumerate(order):
        out[i] = min(max(free[rank], low), most) + rank * gap
    return out


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
