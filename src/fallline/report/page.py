"""The page: from checked results to one HTML text. Same results, same bytes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

from fallline.report import words
from fallline.report.curves import Band, band, draw_curves
from fallline.report.forest import draw_forest, ranked
from fallline.report.limits import limitations
from fallline.report.palette import Look, looks
from fallline.report.schema import Method, Results, Task, check
from fallline.report.sensitivity import Panel, draw_sensitivity
from fallline.report.validity import Light, crowded, lights

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

__all__ = ["environment", "markup", "render", "trusted"]

VERDICT_WORDS = {"winner": "one method leads", "group": "several lead together", "cannot tell": "cannot tell"}


def render(results: Mapping[str, Any]) -> str:
    """One self-contained HTML page of a study's results (the contents of results.json, schema 1).

    No script, no network reference, the same bytes for the same results. Raises FalllineError where ``results`` has
    another schema or is malformed.

    >>> from fallline.lab import load_study
    >>> from fallline.report import render
    >>> page = render(load_study("fallline-demo")[1])  # doctest: +SKIP
    """
    r = check(results)
    styles = looks(m.name for t in r.tasks for m in t.methods)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            r=r,
            title=title(r),
            tasks=[View(r, t, styles, f"task-{i}") for i, t in enumerate(r.tasks)],
            styles=styles,
            verdict_words=VERDICT_WORDS,
            limitations=limitations(r),
            crowded=crowded(r),
            absent=words.ABSENT,
        )
    )


def title(r: Results) -> str:
    """Who was compared on what: "adamw, lion and nesterov on digits-mlp"."""
    methods = list(dict.fromkeys(m.name for t in r.tasks for m in t.methods))
    who = enumeration(methods) if len(methods) <= 5 else f"{len(methods)} methods"
    return f"{who or 'No methods'} on {enumeration([t.name for t in r.tasks]) or 'no tasks'}"


def enumeration(names: list[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


@dataclass(frozen=True)
class View:
    """What the template shows of one task; figures are drawn when asked for."""

    results: Results
    task: Task
    styles: dict[str, Look]
    id: str

    @cached_property
    def lights(self) -> list[Light]:
        return lights(self.results, self.task)

    @cached_property
    def ranked(self) -> list[Method]:
        return ranked(self.task)

    @cached_property
    def absent(self) -> dict[str, str]:
        """Why a method has no result."""
        return {m.name: _why_absent(m) for m in self.task.methods if not m.runs or m.final is None}

    @cached_property
    def forest(self) -> Markup | None:
        return _safe(draw_forest(self.task, self.styles, f"{self.id}-forest"))

    @cached_property
    def curves(self) -> Markup | None:
        return _safe(draw_curves(self.task, self.styles, f"{self.id}-curves"))

    @cached_property
    def panels(self) -> list[list[Panel]]:
        """The panels of the sensitivity figure: a row per method, or one row for all where each has a single panel."""
        panels = draw_sensitivity(self.task, self.styles, f"{self.id}-tuning")
        rows = [list(row) for _, row in groupby(panels, key=lambda panel: panel.method)]
        return rows if any(len(row) > 1 for row in rows) else [panels] if panels else []

    @cached_property
    def seeds(self) -> list[int]:
        return sorted({run.seed for m in self.task.methods for run in m.runs})

    @cached_property
    def bands(self) -> dict[str, Band]:
        return {m.name: band(m, self.task.metric.minimize) for m in self.ranked if m.runs}

    @cached_property
    def curve_rows(self) -> list[dict[str, Any]]:
        """One row per evaluated step, one cell per method."""
        steps = sorted({s for b in self.bands.values() for s in b.steps})
        return [{"step": s, "cells": [_band_cell(b, s) for b in self.bands.values()]} for s in steps]

    def final_at(self, m: Method, seed: int) -> str:
        """A method's final metric on one seed."""
        run = next((run for run in m.runs if run.seed == seed), None)
        if run is None:
            return words.ABSENT
        return run.status if run.final is None else quantity(run.final, 4)

    def ratio(self, m: Method, what: str) -> str:
        """A second line with the method's time to target as a multiple of tuned AdamW's; nothing where there is none."""
        ratio = getattr(m.to_target.ratio_to_adamw, what, None) if m.to_target else None
        if m.name == "adamw" or ratio is None:
            return ""
        x, low, high = (quantity(v, 2) for v in (ratio.estimate, ratio.low, ratio.high))
        return markup("<span class='ref'>{}× [{}, {}]</span>", x, low, high)

    def share(self, m: Method) -> str:
        """A bar: the step's time against the task's slowest method, the optimizer's part in colour."""
        slowest = max((o.cost.step_ms or 0.0 for o in self.task.methods if o.cost), default=0.0)
        if m.cost is None or not m.cost.step_ms or m.cost.optimizer_ms is None or not slowest:
            return words.ABSENT
        own = 100 * min(m.cost.optimizer_ms, m.cost.step_ms) / slowest
        rest = 100 * m.cost.step_ms / slowest - own
        part = round(100 * m.cost.optimizer_ms / m.cost.step_ms)
        bar = '<span class="bar" aria-hidden="true"><i style="width: {}%"></i><i style="width: {}%"></i></span> {} %'
        return markup(bar, f"{rest:.1f}", f"{own:.1f}", part)

    def train_seconds(self, m: Method) -> str:
        """CPU seconds of one full run: the median over the seeds that finished."""
        values = [run.train_seconds for run in m.runs if run.train_seconds is not None and run.status == "done"]
        return quantity(statistics.median(values), 3) if values else words.ABSENT


def _why_absent(m: Method) -> str:
    if m.trials and all(t.status == "diverged" for t in m.trials):
        return f"all {len(m.trials)} trials diverged"
    return "not run yet"


def _band_cell(b: Band, step: float) -> str:
    if step not in b.steps:
        return words.ABSENT
    i = b.steps.index(step)
    low, high = quantity(b.low[i], 4), quantity(b.high[i], 4)
    middle = b.median[i]
    return markup(
        "{} <span class='ci'>[{}, {}]</span>", "diverged" if middle is None else quantity(middle, 4), low, high
    )


# -- the template's filters: a number's text, with its exact value beside it for machines and tests ----------------------


def markup(template: str, *parts: object) -> Markup:
    """HTML from a trusted template; the parts are escaped unless they are markup."""
    from markupsafe import Markup

    return Markup(template).format(*parts)


def quantity(x: float | None, digits: int = 4) -> str:
    """``<data value="2.3456789">2.346</data>``."""
    return words.ABSENT if x is None else _datum(x, words.number(x, digits))


def _datum(x: float, text: str) -> str:
    return markup('<data value="{}">{}</data>', words.exact(x), text)


def _interval(x: float | None, low: float | None, high: float | None) -> list[str]:
    texts = words.interval(x, low, high)
    return [text if v is None else _datum(v, text) for v, text in zip((x, low, high), texts, strict=True)]


def _probability(p: float | None) -> str:
    return words.ABSENT if p is None else _datum(p, words.probability(p))


def _when(stamp: str | None) -> str:
    return "date unknown" if not stamp else stamp[:16].replace("T", " ")


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip(" ,") + "…"


def _safe(svg: str | None) -> Markup | None:
    return None if svg is None else markup("{}", trusted(svg))


def trusted(text: str) -> Markup:
    """A drawing of ours as it is; nothing of it is escaped again."""
    from markupsafe import Markup

    return Markup(text)  # matplotlib has escaped the texts in it


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The templates and their filters; every value is escaped unless it says otherwise."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("fallline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "num": quantity,
        "brief": lambda x, digits=3: words.ABSENT if x is None else _datum(x, words.brief(x, digits)),
        "interval": _interval,
        "p": _probability,
        "count": words.count,
        "duration": words.duration,
        "hypers": words.hypers,
        "shorten": _shorten,
        "when": _when,
        "capitalize_first": lambda text: text[:1].upper() + text[1:],
    }
    return found
