"""Figures over all tasks: performance profiles, and the speed-up over tuned AdamW with its interval."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fallline.report.axes import limits, set_metric_axis
from fallline.report.palette import ROLES, Look
from fallline.report.schema import Ranking
from fallline.report.svg import Picture, drawing, figure, stamp
from fallline.report.words import hyper, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FARTHEST", "draw_profile", "draw_speedups"]

WIDTH, HEIGHT, ROW = 520, 300, 30
FARTHEST = 4.0
"""Where the axis of ratios ends: farther behind the best earns nothing in AlgoPerf's score."""


def draw_profile(ranking: Ranking, styles: dict[str, Look], num_tasks: int, mark: str = "") -> Picture | None:
    """The share of tasks on which a method's time to target is at most tau times that of the best (Dolan and More 2002)."""
    lines = {m: _steps(ranking.profile.get(m, [])) for m in ranking.order}
    if not lines:
        return None
    with drawing():
        fig, axes = figure(WIDTH, HEIGHT, left=46, right=16, top=26, bottom=74 + 15 * ((len(lines) - 1) // 4))
        axes.set_xscale("log", base=2)
        axes.set_xlim(1, FARTHEST)
        axes.set_ylim(-0.03, 1.03)
        _plain_ticks(axes, [1, 1.5, 2, 3, 4])
        axes.set_yticks([0, 0.5, 1], labels=["0", "½", "1"])
        axes.set_xlabel("time to target, as a multiple of the best method's")
        axes.set_title("share of tasks", color=ROLES["soft"])
        for i, (name, (taus, shares)) in enumerate(lines.items()):
            look = styles[name]
            lifted = [share + 0.008 * (i - (len(lines) - 1) / 2) for share in shares]  # equal lines stay visible
            axes.plot(
                taus,
                lifted,
                drawstyle="steps-post",
                color=look.colour,
                linestyle=look.dash,
                linewidth=1.7,
                label=name,
                zorder=3,
            )
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(-0.02, -0.2),
            ncols=4,
            frameon=False,
            fontsize=9.5,
            handlelength=2.2,
            columnspacing=1.4,
        )
        stamp(fig, mark)
        ends = "; ".join(
            f"{m}: best on {number(100 * _at(lines[m], 1.0), 3)} % of tasks, within 4 times on {number(100 * _at(lines[m], FARTHEST), 3)} %"
            for m in lines
        )
        return Picture(fig, f"Performance profiles over {num_tasks} tasks. {ends}.")


def draw_speedups(ranking: Ranking, styles: dict[str, Look], num_tasks: int, mark: str = "") -> Picture | None:
    """Each method's speed-up over tuned AdamW over all tasks, with its 95 % interval."""
    scores = {m: ranking.scores[m].anchored for m in ranking.order if m in ranking.scores}
    if not scores:
        return None
    shown = [x for s in scores.values() for x in (s.estimate, s.low, s.high) if x is not None and x > 0]
    if not shown:
        return None
    margin = min(150.0, 20 + 6.4 * max(map(len, scores)))
    with drawing():
        fig, axes = figure(WIDTH, 66 + ROW * len(scores), left=margin, right=86, top=26, bottom=40)
        axes.set_ylim(len(scores) - 0.5, -0.5)
        set_metric_axis(axes, "x", True, limits([*shown, 1.0], True))
        low, high = axes.get_xlim()
        _plain_ticks(axes, [x for x in (0.1, 0.2, 0.25, 0.5, 0.7, 1, 1.4, 2, 3, 4, 10) if low <= x <= high])
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.axvline(1.0, color=ROLES["rule"], linewidth=0.9, zorder=0)
        axes.set_title("speed-up over tuned adamw (higher is better)", color=ROLES["soft"])
        place = axes.get_yaxis_transform()
        for row, (name, s) in enumerate(scores.items()):
            look = styles[name]
            axes.text(-0.03, row, name, color=look.colour, ha="right", va="center", transform=place)
            if s.low is not None and s.high is not None and s.low > 0:
                axes.plot([s.low, s.high], [row, row], color=look.colour, linewidth=1.8, zorder=3)
            axes.plot(
                [s.estimate], [row], marker=look.marker, color=look.colour, markersize=6.5, zorder=4,
                markeredgecolor=ROLES["paper"], markeredgewidth=0.8,
            )  # fmt: skip
            axes.text(1.04, row, f"× {s.estimate:.2f}", va="center", transform=place)
        stamp(fig, mark)
        said = "; ".join(
            f"{m} {s.estimate:.2f}"
            + (f" ({s.low:.2f} to {s.high:.2f})" if s.low is not None and s.high is not None else "")
            for m, s in scores.items()
        )
        return Picture(fig, f"Speed-up over tuned adamw over {num_tasks} tasks, with 95 % intervals: {said}.")


def _steps(points: list[list[float]]) -> tuple[list[float], list[float]]:
    """A step function on [1, FARTHEST] from the points where it rises."""
    inside = sorted((tau, rho) for tau, rho in points if math.isfinite(tau) and tau <= FARTHEST)
    first = 0.0 if not inside or inside[0][0] > 1 else inside[0][1]
    taus, shares = [1.0, *(t for t, _ in inside)], [first, *(r for _, r in inside)]
    return [*taus, FARTHEST], [*shares, shares[-1]]


def _at(line: tuple[list[float], list[float]], tau: float) -> float:
    return max((share for t, share in zip(*line, strict=True) if t <= tau), default=0.0)


def _plain_ticks(axes: Axes, at: list[float]) -> None:
    from matplotlib import ticker

    axes.xaxis.set_major_locator(ticker.FixedLocator(at))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: hyper(float(f"{x:.6g}"))))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
