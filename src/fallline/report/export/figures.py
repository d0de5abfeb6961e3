"""The report's figures as files for a paper: SVG and PDF, in the light colours, fonts of the PDF embedded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fallline.report.cost import draw_cost
from fallline.report.curves import draw_curves
from fallline.report.forest import draw_forest
from fallline.report.headline import marks
from fallline.report.palette import looks
from fallline.report.profile import draw_profile, draw_speedups
from fallline.report.schema import check
from fallline.report.sensitivity import draw_sensitivity
from fallline.report.svg import Picture
from fallline.report.tunability import draw_best_of

__all__ = ["pictures", "write_figures"]


def write_figures(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write every figure under ``folder/figures``; returns that folder."""
    root = folder / "figures"
    root.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures(results):
        picture.save(root / f"{name}.svg")
        picture.save(root / f"{name}.pdf")
    return [root]


def pictures(results: Mapping[str, Any]) -> Iterator[tuple[str, Picture]]:
    """Every figure of the report with a name for its file; raises FalllineError for malformed results."""
    r = check(results)
    styles = looks(m.name for t in r.tasks for m in t.methods)
    found: list[tuple[str, Picture | None]] = []
    if r.ranking is not None:
        found.append(("speed-up", draw_speedups(r.ranking, styles, len(r.tasks), marks(r))))
        found.append(("profile", draw_profile(r.ranking, styles, len(r.tasks), marks(r))))
    yield from ((name, picture) for name, picture in found if picture is not None)
    for t in r.tasks:
        mark = marks(r, t)
        found = [
            ("forest", draw_forest(t, styles, mark)),
            ("curves", draw_curves(t, styles, mark)),
            ("best-of", draw_best_of(t, styles, mark)),
        ]
        if r.clock is None or r.clock.trusted:
            found.append(("cost", draw_cost(t, styles, mark)))
        found += [(f"tuning-{p.method}-{p.hyper}", p.picture) for p in draw_sensitivity(t, styles, mark)]
        where = re.sub(r"[^\w.-]", "-", t.name)
        yield from ((f"{where}-{name}", picture) for name, picture in found if picture is not None)
