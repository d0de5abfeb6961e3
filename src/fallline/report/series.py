"""Lines over training steps: one figure for whatever a watch has recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fallline.report.axes import label_ends, limits, set_metric_axis, wants_log
from fallline.report.palette import ROLES, SLOTS
from fallline.report.svg import drawing, figure, inline
from fallline.report.words import number

__all__ = ["Line", "draw_lines", "smoothed"]

Line = tuple[Sequence[float], Sequence[float]]
"""Steps and values."""

WIDTH, HEIGHT = 520, 260
MOST = 8
"""Lines that get a colour and a name; of more, the first and last ones by their end, the others in grey."""


def draw_lines(lines: Mapping[str, Line], title: str, prefix: str, mark: tuple[str, float] | None = None) -> str | None:
    """The figure as SVG; None without a finite value. ``mark`` is a named horizontal line, a threshold for example."""
    kept = {name: _finite(line) for name, line in lines.items()}
    kept = {name: line for name, line in kept.items() if line[1]}
    if not kept:
        return None
    values = [v for _, vs in kept.values() for v in vs] + ([mark[1]] if mark else [])
    log = wants_log(values)
    named = list(kept)
    if len(kept) > MOST:
        order = sorted(kept, key=lambda name: kept[name][1][-1])
        named = [*order[: MOST // 2], *order[-MOST // 2 :]]
    with drawing():
        margin = min(190.0, 24 + 6.2 * max(map(len, [*named, *([mark[0]] if mark else [])])))
        fig, axes = figure(WIDTH, HEIGHT, left=56, right=margin, top=26, bottom=40)
        axes.set_xlim(0, max(s[-1] for s, _ in kept.values()))
        set_metric_axis(axes, "y", log, limits(values, log))
        axes.set_xlabel("training step")
        axes.set_title(title, color=ROLES["soft"])
        ends: dict[str, tuple[float, str]] = {}
        for name, (steps, vs) in kept.items():
            shown = name in named
            colour = SLOTS[named.index(name) % len(SLOTS)] if shown else ROLES["rule"]
            axes.plot(
                steps, vs, color=colour, linewidth=1.5 if shown else 0.8, marker="o" if len(vs) < 30 else None, markersize=3,
                zorder=3 if shown else 1,
            )  # fmt: skip
            if shown:
                ends[name] = vs[-1], colour
        if mark:
            axes.axhline(mark[1], color=ROLES["target"], linewidth=0.9, linestyle=(0, (2, 2)), zorder=2)
            ends[mark[0]] = mark[1], ROLES["target"]
        label_ends(axes, ends)
        said = "; ".join(f"{name} ends at {number(kept[name][1][-1])}" for name in named)
        return inline(fig, prefix, f"{title} against the training step. {said}.")


def smoothed(steps: Sequence[float], values: Sequence[float], points: int = 120) -> Line:
    """Means over equal stretches, so that a noisy series of thousands becomes a readable line."""
    size = max(1, len(values) // points)
    if size == 1:
        return steps, values
    cut = range(0, len(values) - size + 1, size)
    return [steps[i + size - 1] for i in cut], [math.fsum(values[i : i + size]) / size for i in cut]


def _finite(line: Line) -> tuple[list[float], list[float]]:
    pairs = [(s, v) for s, v in zip(*line, strict=True) if math.isfinite(v)]
    return [s for s, _ in pairs], [v for _, v in pairs]
