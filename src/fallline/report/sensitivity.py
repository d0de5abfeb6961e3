"""Sensitivity: the final metric of every trial against one tuned hyperparameter, one small panel each."""

from __future__ import annotations

from dataclasses import dataclass

from fallline.report.axes import Coordinate, limits, set_metric_axis, wants_log
from fallline.report.palette import ROLES, Look
from fallline.report.schema import Method, Task
from fallline.report.svg import Picture, drawing, figure, stamp
from fallline.report.words import hyper, number

__all__ = ["Panel", "draw_sensitivity"]

WIDTH, HEIGHT = 262, 196


@dataclass(frozen=True)
class Panel:
    """One panel: the figure, and what a reader should know about its space in a sentence (or nothing)."""

    method: str
    hyper: str
    picture: Picture
    warning: str


def draw_sensitivity(task: Task, styles: dict[str, Look], mark: str = "") -> list[Panel]:
    """A panel for every method and tuned hyperparameter; the metric's axis is the same in all of them."""
    finals = [t.final for m in task.methods for t in m.trials if t.final is not None]
    log = wants_log(finals)
    ends = limits(finals, log, 0.07, 0.22)
    with drawing():
        return [
            _panel(task, m, name, styles[m.name], log, ends, mark)
            for m in task.methods
            for name in m.tuned
            if m.trials and name in m.space
        ]


def _panel(task: Task, m: Method, name: str, look: Look, log: bool, ends: tuple[float, float], mark: str) -> Panel:
    points = [(float(value), t) for t in m.trials if isinstance(value := t.hyper.get(name), int | float)]
    points.sort(key=lambda point: point[0])
    done = [(x, t.final) for x, t in points if t.final is not None]
    lost = [x for x, t in points if t.final is None]
    where = Coordinate(name, m.space[name])
    fig, axes = figure(WIDTH, HEIGHT, left=46, right=10, top=26, bottom=38)
    where.set(axes, [x for x, _ in points])
    set_metric_axis(axes, "y", log, ends)
    axes.minorticks_off()  # small panels, and many of them
    axes.set_title(m.name, color=look.colour)
    axes.set_xlabel(where.label)
    line = look.dash if len(m.tuned) == 1 else ""  # several vary at once: a line would join strangers
    axes.plot(
        [where(x) for x, _ in done], [y for _, y in done], color=look.colour, linestyle=line, linewidth=1.2,
        marker=look.marker, markersize=4.6, zorder=3,
    )  # fmt: skip
    if lost:
        top = axes.get_xaxis_transform()
        axes.plot([where(x) for x in lost], [0.94] * len(lost), "x", color=ROLES["bad"], transform=top, markersize=6,
                  markeredgewidth=1.5, zorder=3)  # fmt: skip
    warning = _warning(m, name)
    best = next((t for _, t in points if m.best is not None and t.run == m.best.run), None)
    if best is not None and best.final is not None:
        axes.plot([where(float(best.hyper[name]))], [best.final], "o", markersize=11, markerfacecolor="none",  # type: ignore[arg-type]
                  markeredgecolor=ROLES["bad" if warning else "ink"], markeredgewidth=1.1, zorder=4)  # fmt: skip
    stamp(fig, mark)
    return Panel(m.name, name, Picture(fig, _words(task, m, name, best is not None, len(lost))), warning)


def _warning(m: Method, name: str) -> str:
    for edge in m.best.edges if m.best else []:
        if edge.name == name:
            return f"best at the {edge.side} edge of {edge.range}"
    return "every trial diverged" if m.trials and all(t.final is None for t in m.trials) else ""


def _words(task: Task, m: Method, name: str, found: bool, lost: int) -> str:
    text = f"{m.name} on {task.name}: final {task.metric.label} of {len(m.trials)} trials against {name}."
    if found and m.best is not None:
        final = next(t.final for t in m.trials if t.run == m.best.run)
        text += f" Best at {name}={hyper(m.best.hyper[name])} with {number(final, 4)}."
    return text + (f" {lost} diverged." if lost else "")
