"""The progress of a study: a bar with the time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from fallline.lab import Event

__all__ = ["Progress"]

PHASES = {"tune": "tuning", "prune": "tuning", "confirm": "fresh seeds"}

_LINE_EVERY_SECONDS = 10.0


class Progress:
    """Call it with a study's events; use as a context manager."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._bar = (
            Bar(
                TextColumn("{task.description:<34}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[left]}"),
                console=out,
                transient=True,
            )
            if out.is_terminal
            else None
        )
        self._row: TaskID | None = None
        self._said = time.monotonic()

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
            self._row = self._bar.add_task("starting", total=None, left="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, event: Event) -> None:
        if event.kind == "dropped":
            self._out.print(f"          every trial of {event.method} on {event.task} diverged")
        if event.kind == "alone":
            self._out.print(f"          runs of {event.method} on {event.task} train one by one: {event.status}")
            return
        phase = PHASES.get(event.purpose, "other runs")
        text = f"{phase}, {event.task}" if event.task else "starting"
        if self._bar is not None and self._row is not None:
            self._bar.update(self._row, description=text, total=event.planned, completed=event.done, left=_left(event))
        elif time.monotonic() - self._said > _LINE_EVERY_SECONDS:
            self._said = time.monotonic()
            self._out.print(f"          {event.done} of {event.planned} runs, {_left(event)}")


def _left(event: Event) -> str:
    """The time left, from the pace of this session; runs that were there already took none."""
    fresh = event.done - event.repeated
    if fresh < 3:
        return ""
    seconds = event.seconds / fresh * (event.planned - event.done)
    return f"about {seconds:.0f} s left" if seconds < 100 else f"about {seconds / 60:.0f} min left"
