"""Forest plot: each method's final metric, its interval over seeds, and every seed as a dot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fallline.report.axes import limits, set_metric_axis, wants_log
from fallline.report.palette import ROLES, Look
from fallline.report.schema import Method, Task
from fallline.report.svg import Picture, drawing, figure, stamp
from fallline.report.words import interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_forest", "ranked"]

WIDTH, ROW = 520, 34


def ranked(task: Task) -> list[Method]:
    """The methods from best to worst: fewest diverged seeds, then the mean (the median where a seed diverged)."""
    return sorted(task.methods, key=lambda m: _rank(m, task.metric.minimize))


def _rank(m: Method, minimize: bool) -> tuple[int, int, float]:
    middle = None if m.final is None else m.final.median if m.final.mean is None else m.final.mean
    if m.final is None or middle is None:
        return 1, 0, 0.0
    return 0, m.final.diverged, middle if minimize else -middle


def draw_forest(task: Task, styles: dict[str, Look], mark: str = "") -> Picture | None:
    """The figure with that watermark, or None before any fresh seed has run."""
    methods = [m for m in ranked(task) if m.runs]
    finals = {m.name: [r.final for r in m.runs if r.final is not None] for m in methods}
    shown = [x for values in finals.values() for x in values]
    shown += [x for m in methods if m.final for x in (m.final.low, m.final.high) if x is not None]
    if not shown:
        return None
    log = wants_log(shown)
    margin = min(150.0, 20 + 6.4 * max(len(m.name) for m in methods))
    lost = any(r.final is None for m in methods for r in m.runs)
    height = 62 + ROW * len(methods)
    with drawing():
        fig, axes = figure(WIDTH, height, left=margin, right=92 if lost else 16, top=26, bottom=36)
        axes.set_ylim(len(methods) - 0.5, -0.5)
        set_metric_axis(axes, "x", log, limits(shown, log))
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        better = "lower" if task.metric.minimize else "higher"
        axes.set_title(f"{task.metric.label} ({better} is better)", color=ROLES["soft"])
        for row, m in enumerate(methods):
            _row(axes, row, m, finals[m.name], styles[m.name])
        lead = methods[0]
        if lead.final and lead.final.mean is not None:
            axes.axvline(lead.final.mean, color=ROLES["rule"], linewidth=0.9, zorder=0)
        stamp(fig, mark)
        return Picture(fig, _words(task, methods))


def _row(axes: Axes, row: int, m: Method, finals: list[float], look: Look) -> None:
    """Name, interval, mean and seeds of one method."""
    place = axes.get_yaxis_transform()
    axes.text(-0.03, row, m.name, color=look.colour, ha="right", va="center", transform=place)
    spread = [row + 0.24 + 0.05 * (i % 3 - 1) for i in range(len(finals))]
    axes.scatter(finals, spread, s=11, color=look.colour, alpha=0.55, linewidth=0, zorder=2)
    final = m.final
    if final is not None and final.low is not None and final.high is not None:
        axes.plot([final.low, final.high], [row - 0.1] * 2, color=look.colour, linewidth=1.8, zorder=3)
    middle = None if final is None else final.median if final.mean is None else final.mean
    if middle is not None:
        axes.plot(
            [middle], [row - 0.1], marker=look.marker, color=look.colour, markersize=6.5, zorder=4,
            markeredgecolor=ROLES["paper"], markeredgewidth=0.8,
        )  # fmt: skip
    lost = len(m.runs) - len(finals)
    if lost:
        axes.text(1.01, row, f"× {lost} diverged", color=ROLES["bad"], va="center", fontsize=9.5, transform=place)


def _words(task: Task, methods: list[Method]) -> str:
    parts = []
    for m in methods:
        if m.final is None or m.final.mean is None:
            parts.append(f"{m.name}: {m.final.diverged if m.final else 0} of {len(m.runs)} seeds diverged")
        else:
            mean, low, high = interval(m.final.mean, m.final.low, m.final.high)
            parts.append(f"{m.name}: {mean} (95 % interval {low} to {high})")
    return f"Final {task.metric.label} on {task.name}, mean over fresh seeds. {'; '.join(parts)}."
