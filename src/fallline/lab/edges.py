"""Whether a wider search space could turn a difference round: a method cut off by its space, told from one that fails inside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fallline.core.space import Range
from fallline.lab.design import widenings

__all__ = ["HARDLY", "overtaking_edge"]

HARDLY = 0.2
"""A method that closes less than this share of its rival's gap at the highest learning rate tried has hardly trained."""

SHORTEST = 0.25
"""Of the step by which a space is widened, a decade: a slope between points that are closer is noise."""


def overtaking_edge(
    m: Mapping[str, Any], rival: Mapping[str, Any], gap: float, initial: float | None, minimize: bool
) -> Mapping[str, Any] | None:
    """The edge of ``m``'s space beyond which it might gain ``gap`` on ``rival`` and more; None where no edge promises as much.

    ``m`` and ``rival`` are methods of the results, ``gap`` is how much worse m is on fresh seeds (``inf`` where seeds diverged).
    """
    sign = 1 if minimize else -1
    costs = {t["run"]: math.inf if t["final"] is None else sign * t["final"] for t in m["trials"]}
    theirs = min(math.inf if t["final"] is None else sign * t["final"] for t in rival["trials"])
    start = math.inf if initial is None else sign * initial
    for edge in m["best"]["edges"]:
        if math.isinf(gap):  # it diverges on some seeds: only smaller steps may cure that
            promising = edge["name"] == "lr" and edge["side"] == "low"
        else:
            idle = start - costs[m["best"]["run"]] < HARDLY * (start - theirs) if math.isfinite(start) else False
            hardly = idle and edge["name"] == "lr" and edge["side"] == "high"
            promising = hardly or _steepest(m, edge["name"], costs) >= gap
        if promising:
            return dict(edge)
    return None


def _steepest(m: Mapping[str, Any], name: str, costs: Mapping[str, float]) -> float:
    """The gain over one more widening of the space, if the steepest fall towards the edge within the last one went on."""
    k, space = m["tuned"].index(name), Range.parse(m["space"][name])
    best = next(t for t in m["trials"] if t["run"] == m["best"]["run"])
    slopes = [0.0]
    for t in m["trials"]:
        far = widenings(space, abs(t["unit"][k] - best["unit"][k]))
        if SHORTEST <= far <= 1 and math.isfinite(costs[t["run"]]):
            slopes.append((costs[t["run"]] - costs[best["run"]]) / far)
    return max(slopes)
