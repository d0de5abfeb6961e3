"""``fallline schedule``: what a schedule looks like, as text and as SVG."""

from __future__ import annotations

import math
from pathlib import Path

from fallline.cli.figures import show
from fallline.core.errors import InvalidValueError
from fallline.report.lines import Lines
from fallline.report.words import brief
from fallline.schedules import parse

__all__ = ["plot_schedule"]

_MOST_POINTS = 2000  # of a line; a figure has no more pixels
_MOST_STEPS = 5_000_000
_ENDLESS = 1000  # steps shown of a schedule that never ends


def plot_schedule(text: str, steps: int | None, svg: Path | None) -> int:
    """Print the schedule's curve and its main numbers."""
    schedule = parse(text)
    shown = steps or (_ENDLESS if math.isinf(schedule.length) else max(2, int(schedule.length)))
    if not 2 <= shown <= _MOST_STEPS or steps == 0:
        raise InvalidValueError(
            f"{'The schedule has' if steps is None else '--steps got'} {shown if steps is None else steps} steps. Expected 2 to {_MOST_STEPS} "
            f"to draw. Write for example --steps 1000."
        )
    values = [schedule(t) for t in range(1, shown + 1)]
    peak = max(range(shown), key=values.__getitem__)
    ends = "never ends" if math.isinf(schedule.length) else f"ends after step {int(schedule.length)}"
    below = (
        f"step 1: {brief(values[0], 4)}   peak at step {peak + 1}: {brief(values[peak], 4)}   "
        f"step {shown}: {brief(values[-1], 4)}   {ends}"
    )
    stride = max(1, shown // _MOST_POINTS)
    drawn = sorted({*range(0, shown, stride), peak, shown - 1})
    show(Lines(text.strip(), "step", "value", {"schedule": [(t + 1, values[t]) for t in drawn]}), svg, below)
    return 0
