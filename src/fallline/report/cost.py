"""Cost against quality: what a run takes and where it ends, a point for every method."""

from __future__ import annotations

import statistics

from fallline.report.axes import limits, set_metric_axis, spread_apart, wants_log
from fallline.report.palette import ROLES, Look
from fallline.report.schema import Method, Task
from fallline.report.svg import Picture, drawing, figure, stamp
from fallline.report.words import number

__all__ = ["draw_cost", "run_seconds"]

WIDTH, HEIGHT = 520, 300


def run_seconds(m: Method) -> float | None:
    """CPU seconds of one full run: the median over the seeds that finished."""
    values = [run.train_seconds for run in m.runs if run.train_seconds is not None and run.status == "done"]
    return statistics.median(values) if values else None


def draw_cost(task: Task, styles: dict[str, Look], mark: str = "") -> Picture | None:
    """Median CPU seconds of a run against the final metric with its interval; None with fewer than two methods to show."""
    points = {
        m.name: (seconds, m.final.median, m.final.low, m.final.high)
        for m in task.methods
        if m.final is not None and m.final.median is not None and (seconds := run_seconds(m)) is not None
    }
    if len(points) < 2:
        return None
    ys = [y for _, *all_y in points.values() for y in all_y if y is not None]
    xs = [x for x, *_ in points.values()]
    log = wants_log(ys)
    with drawing():
        margin = min(150.0, 24 + 6.4 * max(map(len, points)))
        fig, axes = figure(WIDTH, max(HEIGHT, 80 + 14 * len(points)), left=52, right=margin, top=26, bottom=40)
        set_metric_axis(
            axes,
            "x",
            wants_log(xs),
            limits([*xs, *([] if wants_log(xs) else [0.0])], wants_log(xs), 0.0 if not wants_log(xs) else 0.06),
        )
        set_metric_axis(axes, "y", log, limits(ys, log))
        axes.set_xlabel("CPU seconds of a run")
        axes.set_title(f"final {task.metric.label}", color=ROLES["soft"])
        for name, (x, y, low, high) in points.items():
            look = styles[name]
            if low is not None and high is not None:
                axes.plot([x, x], [low, high], color=look.colour, linewidth=1.4, zorder=2)
            axes.plot([x], [y], marker=look.marker, color=look.colour, markersize=7, markeredgecolor=ROLES["paper"], markeredgewidth=0.8, zorder=3)  # fmt: skip
        box = axes.bbox
        spots = {name: axes.transData.transform((x, y)) for name, (x, y, _, _) in points.items()}
        heights = spread_apart([spot[1] - box.y0 for spot in spots.values()], 13.0, 4, box.height - 4)
        for (name, spot), height in zip(spots.items(), heights, strict=True):
            across = (spot[0] - box.x0) / box.width
            axes.text(
                across + 0.018,
                height / box.height,
                name,
                color=styles[name].colour,
                va="center",
                transform=axes.transAxes,
            )
        stamp(fig, mark)
        said = "; ".join(f"{n} {number(y, 4)} after {number(x, 3)} seconds" for n, (x, y, _, _) in points.items())
        return Picture(fig, f"Final {task.metric.label} against CPU seconds of a run on {task.name}: {said}.")
