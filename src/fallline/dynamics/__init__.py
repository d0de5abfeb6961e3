"""Why a run behaves as it does: a watch on any training loop, probes of curvature and noise, and findings in words."""

from __future__ import annotations

from fallline.dynamics.findings import Finding, explain
from fallline.dynamics.motion import motion
from fallline.dynamics.probes import Attention, Curvature, first_not_finite, opposing, watch_attention
from fallline.dynamics.record import Record, Series, Trouble
from fallline.dynamics.watching import Watch, watch

__all__ = [
    "Attention", "Curvature", "Finding", "Record", "Series", "Trouble", "Watch", "explain", "first_not_finite", "motion",
    "opposing", "watch", "watch_attention",
]  # fmt: skip
