"""How easy methods are to tune: the best that k trials find, for every k."""

from __future__ import annotations

from fallline.report.axes import label_ends, limits, set_metric_axis, wants_log
from fallline.report.palette import ROLES, Look
from fallline.report.schema import Task
from fallline.report.svg import Picture, drawing, figure, stamp
from fallline.report.words import number

__all__ = ["draw_best_of", "expected_best"]

WIDTH, HEIGHT = 520, 290


def expected_best(task: Task) -> dict[str, list[tuple[int, float]]]:
    """Method -> (k, value), without the k for which there is no finite value."""
    found = {
        m.name: [(int(k), v) for k, v in m.tunability.expected_best if k is not None and v is not None]
        for m in task.methods
        if m.tunability
    }
    return {name: points for name, points in found.items() if points}


def draw_best_of(task: Task, styles: dict[str, Look], mark: str = "") -> Picture | None:
    """The metric that the best of k trials reaches against k, a line for every method; None without trials."""
    lines = expected_best(task)
    if not lines:
        return None
    values = [v for points in lines.values() for _, v in points]
    log = wants_log(values)
    with drawing():
        margin = min(150.0, 20 + 6.4 * max(map(len, lines)))
        fig, axes = figure(WIDTH, max(HEIGHT, 80 + 14 * len(lines)), left=52, right=margin, top=26, bottom=40)
        last = max(k for points in lines.values() for k, _ in points)
        axes.set_xlim(1, max(last, 2))
        set_metric_axis(axes, "y", log, limits(values, log))
        axes.set_xlabel("trials")
        axes.set_title(f"{task.metric.label} of the best of so many trials", color=ROLES["soft"])
        for name, points in lines.items():
            look = styles[name]
            ks, vs = zip(*points, strict=True)
            axes.plot(
                ks, vs, color=look.colour, linestyle=look.dash, linewidth=1.6, marker=look.marker, markersize=3.6,
                markevery=max(1, len(ks) // 8), zorder=3,
            )  # fmt: skip
        label_ends(axes, {name: (points[-1][1], styles[name].colour) for name, points in lines.items()})
        stamp(fig, mark)
        said = "; ".join(
            f"{name} from {number(points[0][1], 4)} with {points[0][0]} to {number(points[-1][1], 4)} with {points[-1][0]}"
            for name, points in lines.items()
        )
        return Picture(fig, f"Expected best {task.metric.label} on {task.name} against the number of trials: {said}.")
