"""The page: from checked results to one HTML text. Same results, same bytes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

from fallline.lab.batch_sizes import base_of
from fallline.report import words
from fallline.report.cost import draw_cost, run_seconds
from fallline.report.curves import Band, band, draw_curves
from fallline.report.forest import draw_forest, ranked
from fallline.report.headline import headline, marks
from fallline.report.limits import limitations
from fallline.report.palette import Look, looks
from fallline.report.profile import draw_profile, draw_speedups
from fallline.report.schema import Method, Results, Task, ToTarget, check
from fallline.report.sensitivity import Panel, draw_sensitivity
from fallline.report.styles import share_styles
from fallline.report.svg import Picture
from fallline.report.tunability import draw_best_of, expected_best
from fallline.report.validity import Light, crowded, lights

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

__all__ = ["environment", "markup", "render", "trusted"]

VERDICT_WORDS = {
    "winner": "one method leads",
    "group": "several lead together",
    "open": "one leads, some open",
    "cannot tell": "cannot tell",
}


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
    return share_styles(
        environment()
        .get_template("report.html.j2")
        .render(
            r=r,
            title=title(r),
            tasks=[View(r, t, styles, f"task-{i}") for i, t in enumerate(r.tasks)],
            overall=Overall(r, styles),
            headline=headline(r),
            mark=marks(r),
            seconds=r.clock is None or r.clock.trusted,
            styles=styles,
            verdict_words=VERDICT_WORDS,
            standing=standing,
            limitations=limitations(r),
            crowded=crowded(r),
            absent=words.ABSENT,
        )
    )


def title(r: Results) -> str:
    """Who was compared on what: "adamw, lion and nesterov on digits-mlp"."""
    methods = list(dict.fromkeys(m.name for t in r.tasks for m in t.methods))
    tasks = [t.name for t in r.tasks]
    who = words.enumeration(methods) if len(methods) <= 5 else f"{len(methods)} methods"
    where = words.enumeration(tasks) if len(tasks) <= 4 else f"{len(tasks)} tasks"
    return f"{who or 'No methods'} on {where or 'no tasks'}"


@dataclass(frozen=True)
class View:
    """What the template shows of one task; figures are drawn when asked for."""

    results: Results
    task: Task
    styles: dict[str, Look]
    id: str

    @cached_property
    def mark(self) -> str:
        return marks(self.results, self.task)

    @cached_property
    def command(self) -> str:
        """What makes this task's part of the study, and with it every figure of it."""
        _, _, options = self.results.study.command.partition(" --methods ")
        task = base_of(self.task.reference or self.task.name)  # options name the batch sizes
        return f"fallline compare {shlex.quote(task)} --methods {options}"

    @cached_property
    def sample(self) -> str:
        """How many seeds stand behind the figures: ``n = 7 seeds (1 to 7)``."""
        return _sample(self.seeds)

    @cached_property
    def trials(self) -> str:
        """How many trials stand behind the figures on tuning."""
        counts = sorted({len(m.trials) for m in self.task.methods})
        how_many = f"{counts[0]} trials" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} trials"
        return f"n = {how_many} a method, one seed ({self.results.study.tuning_seed})"

    @cached_property
    def lights(self) -> list[Light]:
        return lights(self.results, self.task)

    @property
    def noise(self) -> str:
        """The gradient noise scale in words, or nothing."""
        held = self.task.noise_scale or {}
        return ", ".join(f"{k.replace('_', ' ')} {words.number(v, 2)}" for k, v in held.items() if _is_number(v))

    @property
    def weak(self) -> bool:
        """Whether anything that was checked weakens the verdict."""
        return any(light.state == "bad" for light in self.lights)

    @cached_property
    def ranked(self) -> list[Method]:
        return ranked(self.task)

    @cached_property
    def absent(self) -> dict[str, str]:
        """Why a method has no result."""
        return {m.name: _why_absent(m) for m in self.task.methods if not m.runs or m.final is None}

    @cached_property
    def forest(self) -> Markup | None:
        return _safe(draw_forest(self.task, self.styles, self.mark), f"{self.id}-forest")

    @cached_property
    def curves(self) -> Markup | None:
        return _safe(draw_curves(self.task, self.styles, self.mark), f"{self.id}-curves")

    @cached_property
    def best_of(self) -> Markup | None:
        return _safe(draw_best_of(self.task, self.styles, self.mark), f"{self.id}-best-of")

    @cached_property
    def best_of_rows(self) -> list[tuple[int, list[float | None]]]:
        """One row for every number of trials, one value per method."""
        lines = {name: dict(points) for name, points in expected_best(self.task).items()}
        return [
            (k, [line.get(k) for line in lines.values()]) for k in sorted({k for line in lines.values() for k in line})
        ]

    @property
    def best_of_names(self) -> list[str]:
        return list(expected_best(self.task))

    @cached_property
    def tuned(self) -> list[Method]:
        """The methods whose tunability is known, best first."""
        return [m for m in self.ranked if m.tunability is not None]

    @cached_property
    def cost(self) -> Markup | None:
        return _safe(draw_cost(self.task, self.styles, self.mark), f"{self.id}-cost")

    @cached_property
    def targeted(self) -> list[Method]:
        """The methods with times to every one of the task's targets, best first."""
        n = len(self.task.targets)
        return [m for m in self.ranked if n and len(m.to_targets) == n]

    def calibrated(self) -> bool:
        """Whether any time to a target is given in calibrated seconds."""
        return any(hit.calibrated_seconds is not None for m in self.targeted for hit in m.to_targets)

    def hits(self, m: Method) -> list[ToTarget]:
        return m.to_targets

    @cached_property
    def panels(self) -> list[list[Panel]]:
        """The panels of the sensitivity figure: a row per method, or one row for all where each has a single panel."""
        panels = draw_sensitivity(self.task, self.styles, self.mark)
        rows = [list(row) for _, row in groupby(panels, key=lambda panel: panel.method)]
        return rows if any(len(row) > 1 for row in rows) else [panels] if panels else []

    def drawn(self, panel: Panel) -> Markup | None:
        every = [p for row in self.panels for p in row]
        return _safe(
            panel.picture, f"{self.id.replace('task-', 't')}p{every.index(panel)}"
        )  # short: they stand there often

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
        bar = '<span class="nw"><span class="bar" aria-hidden="true"><i style="width: {}%"></i><i style="width: {}%"></i></span> {} %</span>'
        return markup(bar, f"{rest:.1f}", f"{own:.1f}", part)

    def train_seconds(self, m: Method) -> str:
        """CPU seconds of one full run: the median over the seeds that finished."""
        return quantity(run_seconds(m), 3)


@dataclass(frozen=True)
class Overall:
    """What the template shows of all tasks together."""

    results: Results
    styles: dict[str, Look]

    @cached_property
    def methods(self) -> list[str]:
        """All methods, in the order of the ranking where there is one."""
        names = dict.fromkeys(m.name for t in self.results.tasks for m in t.methods)
        order = self.results.ranking.order if self.results.ranking else []
        return list(dict.fromkeys([*(n for n in order if n in names), *names]))

    @cached_property
    def sample(self) -> str:
        return f"{len(self.results.tasks)} tasks, {_sample(self.results.study.seeds)}"

    @cached_property
    def speedups(self) -> Markup | None:
        r = self.results.ranking
        if r is None:
            return None
        return _safe(draw_speedups(r, self.styles, len(self.results.tasks), marks(self.results)), "speedups")

    @cached_property
    def profile(self) -> Markup | None:
        r = self.results.ranking
        if r is None:
            return None
        return _safe(draw_profile(r, self.styles, len(self.results.tasks), marks(self.results)), "profile")

    def final(self, task: Task, name: str) -> str:
        """A method's final metric on a task, with a star where it is among the best."""
        m = next((m for m in task.methods if m.name == name), None)
        if m is None or m.final is None or not m.runs:
            return words.ABSENT
        middle = m.final.median if m.final.mean is None else m.final.mean
        return markup("{}{}", "diverged" if middle is None else quantity(middle, 4), standing(task, name))


def standing(task: Task, name: str) -> str:
    """A star for the best and those not told apart from it; a question mark for a method that cannot be judged yet."""
    if name in task.verdict.best:
        return markup(' <span class="star">★</span>')
    if name in task.verdict.open:
        return markup(' <span class="open" title="best on the edge of its space: cannot be judged yet">?</span>')
    return ""


def _is_number(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def _sample(seeds: Sequence[int]) -> str:
    if not seeds:
        return "n = 0 seeds"
    if len(seeds) == 1:
        return f"n = 1 seed ({seeds[0]})"
    return f"n = {len(seeds)} seeds ({min(seeds)} to {max(seeds)})"


def _why_absent(m: Method) -> str:
    if m.trials and all(t.status == "diverged" for t in m.trials):
        return f"all {len(m.trials)} trials diverged"
    return "not run yet"


def _band_cell(b: Band, step: float) -> str:
    if step not in b.steps:
        return words.ABSENT
    i = b.steps.index(step)
    middle = b.median[i]
    return markup(  # no exact values here: they are many, and results.json holds them
        "{} <span class='ci'>[{}, {}]</span>",
        "diverged" if middle is None else words.number(middle, 4), words.number(b.low[i], 4), words.number(b.high[i], 4),
    )  # fmt: skip


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


def _safe(picture: Picture | None, prefix: str) -> Markup | None:
    return None if picture is None else markup("{}", trusted(picture.inline(prefix)))


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
