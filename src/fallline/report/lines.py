"""A plain figure of lines: for the terminal as text, and as an SVG file in the report's style."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fallline.report.axes import limits, set_metric_axis
from fallline.report.palette import ROLES, looks
from fallline.report.svg import drawing, figure, standalone
from fallline.report.words import brief

__all__ = ["Lines"]

_MARKS = "*o+x#@%&"


@dataclass(frozen=True)
class Lines:
    """Named lines, each a list of (x, y), and what the axes mean."""

    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    log_x: bool = False
    log_y: bool = False

    def text(self, width: int = 72, height: int = 16, plain: bool = False) -> str:
        """The figure in that many characters and rows, without axes' labels; ``plain`` keeps to ASCII."""
        ends_x, ends_y = self._ends()
        rows = [[" "] * width for _ in range(height)]
        marks = dict(zip(self.lines, itertools.cycle(_MARKS if plain or len(self.lines) > 1 else "•"), strict=False))
        for name, line in self.lines.items():
            places = [
                (_share(x, ends_x, self.log_x) * (width - 1), (1 - _share(y, ends_y, self.log_y)) * (height - 1))
                for x, y in line
            ]
            for (left, start), (right, end) in itertools.pairwise(places):
                for column in range(round(left) + 1, round(right)):
                    height_at = start + (end - start) * (column - left) / (right - left)
                    rows[round(height_at)][column] = "." if plain else "·"
            for across, down in places:
                rows[round(down)][round(across)] = marks[name]
        top, low = brief(ends_y[1], 4), brief(ends_y[0], 4)
        edge = max(len(top), len(low))
        bar, corner, floor = ("|", "+", "-") if plain else ("│", "└", "─")
        labels = [top, *[""] * (height - 2), low]
        out = [f"{self.title}", ""]
        out += [f"{label:>{edge}} {bar}{''.join(row).rstrip()}" for label, row in zip(labels, rows, strict=True)]
        first, last = brief(ends_x[0], 6), brief(ends_x[1], 6)
        out.append(f"{'':>{edge}} {corner}{floor * width}")
        out.append(f"{'':>{edge}}  {first}{self.x:^{max(width - len(first) - len(last), 0)}}{last}")
        if len(self.lines) > 1:
            out += ["", "  ".join(f"{mark} {name}" for name, mark in marks.items())]
        return "\n".join(out)

    def svg(self) -> str:
        """The figure as an SVG file."""
        styles = looks(self.lines)
        ends_y = self._ends()[1]
        with drawing():
            longest = max(map(len, self.lines)) if len(self.lines) > 1 else 0
            right = 46 + 6.6 * longest if longest else 24  # 46: the legend's samples of lines
            fig, axes = figure(560, 330, left=62, right=right, top=26, bottom=40)
            axes.set_title(self.title, color=ROLES["soft"])
            axes.set_xlabel(self.x)
            axes.set_ylabel(self.y)
            if self.log_x:
                set_metric_axis(axes, "x", True, limits([x for line in self.lines.values() for x, _ in line], True))
            if self.log_y:
                set_metric_axis(axes, "y", True, limits(ends_y, True, 0.03, 0.03))
            for name, line in self.lines.items():
                xs, ys = zip(*line, strict=True)
                look = styles[name]
                axes.plot(xs, ys, color=look.colour, linewidth=1.5, linestyle=look.dash if longest else "-", zorder=3)
                if longest:
                    axes.plot([], [], color=look.colour, linestyle=look.dash, label=name)
            if longest:
                axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, labelcolor=ROLES["ink"])
            ends = "; ".join(f"{name} ends at {brief(line[-1][1], 4)}" for name, line in self.lines.items())
            return standalone(fig, f"{self.title}: {self.y} against {self.x}. {ends}.")

    def _ends(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """The ends of both axes; a logarithmic y spans a factor of ten or more, so that level lines look level."""
        points = [p for line in self.lines.values() for p in line]
        ends_x = limits([x for x, _ in points], self.log_x, 0.0, 0.0)
        low, high = limits([y for _, y in points], self.log_y, 0.0, 0.0)
        if low == high and not self.log_y:
            low, high = low - (abs(low) / 2 or 1.0), high + (abs(high) / 2 or 1.0)
        if self.log_y and high < 10 * low:
            middle = math.sqrt(low * high)
            low, high = middle / math.sqrt(10), middle * math.sqrt(10)
        return ends_x, (low, high)


def _share(value: float, ends: tuple[float, float], log: bool) -> float:
    low, high = (math.log10(e) for e in ends) if log else ends
    at = math.log10(value) if log else value
    return (at - low) / (high - low)
