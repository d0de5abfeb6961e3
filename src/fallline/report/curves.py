"""Learning curves: the median over fresh seeds, the band from the worst seed to the best, and the target."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from fallline.report.axes import label_ends, limits, set_metric_axis, wants_log
from fallline.report.palette import ROLES, Look
from fallline.report.schema import Method, Task
from fallline.report.svg import Picture, drawing, figure, stamp
from fallline.report.words import number

__all__ = ["Band", "band", "draw_curves"]

WIDTH, HEIGHT = 520, 330


@dataclass(frozen=True)
class Band:
    """One method over seeds, at each step of the evaluation grid.

    A diverged seed counts as worse than every other: it enters the median, not the band. The median is absent where
    half of the seeds or more have diverged.
    """

    steps: list[float]
    median: list[float | None]
    low: list[float]
    high: list[float]


def band(method: Method, minimize: bool) -> Band:
    """Median, minimum and maximum of the metric over the method's fresh seeds."""
    at: dict[float, list[float]] = {}
    for run in method.runs:
        for step, value in zip(run.steps, run.metric, strict=False):
            if value is not None:
                at.setdefault(step, []).append(value)
    steps = sorted(at)
    worst = math.inf if minimize else -math.inf
    medians = [statistics.median([*at[s], *[worst] * (len(method.runs) - len(at[s]))]) for s in steps]
    return Band(
        steps,
        [m if math.isfinite(m) else None for m in medians],
        [min(at[s]) for s in steps],
        [max(at[s]) for s in steps],
    )


def draw_curves(task: Task, styles: dict[str, Look], mark: str = "") -> Picture | None:
    """The figure with that watermark, or None before any fresh seed has run."""
    bands = {m.name: band(m, task.metric.minimize) for m in task.methods if m.runs}
    bands = {name: b for name, b in bands.items() if b.steps}
    if not bands:
        return None
    shown = _decisive(bands.values())
    log = wants_log(shown) and all(min(b.low) > 0 for b in bands.values())
    aims = [task.target] if task.target is not None and (task.target > 0 or not log) else []
    ends = limits([*shown, *aims], log)
    margin = min(150.0, 20 + 6.4 * max(map(len, [*bands, "target"])))
    with drawing():
        height = max(HEIGHT, 80 + 14 * len(bands))
        fig, axes = figure(WIDTH, height, left=52, right=margin, top=26, bottom=40)
        last = max(b.steps[-1] for b in bands.values())
        axes.set_xlim(0, last)
        set_metric_axis(axes, "y", log, ends)
        axes.set_xlabel("training step")
        axes.set_title(task.metric.label, color=ROLES["soft"])
        fade = 0.16 if len(bands) <= 4 else 0.07
        for name, b in bands.items():
            look = styles[name]
            axes.fill_between(b.steps, b.low, b.high, color=look.colour, alpha=fade, linewidth=0, zorder=1)
            axes.plot(
                b.steps, [math.nan if m is None else m for m in b.median], color=look.colour, linestyle=look.dash,
                linewidth=1.6, marker=look.marker, markersize=3.6, markevery=max(1, len(b.steps) // 6), zorder=3,
            )  # fmt: skip
        if aims:
            axes.axhline(aims[0], color=ROLES["target"], linewidth=0.9, linestyle=(0, (2, 2)), zorder=2)
        ended = {name: (_end(b), styles[name].colour) for name, b in bands.items()}
        if aims:
            ended["target"] = aims[0], ROLES["target"]
        label_ends(axes, ended)
        aim = "" if task.target is None else f" Target {number(task.target)}."
        parts = [f"{name} ends at {number(b.median[-1], 4)}" for name, b in bands.items() if b.median[-1] is not None]
        text = (
            f"Learning curves on {task.name}: {task.metric.label} against the training step. {'; '.join(parts)}.{aim}"
        )
        stamp(fig, mark)
        return Picture(fig, text)


def _decisive(bands: Iterable[Band]) -> list[float]:
    """The values that set the axis: medians, and the bands of the second half; a spike of one seed may leave the frame."""
    out: list[float] = []
    for b in bands:
        half = len(b.steps) // 2
        out += [*(m for m in b.median if m is not None), *b.low[half:], *b.high[half:]]
    return out


def _end(b: Band) -> float:
    """Where the curve ends: its last median, or its last value where no median is left."""
    return next((m for m in reversed(b.median) if m is not None), b.high[-1])
