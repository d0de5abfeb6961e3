"""Schedules: pure functions of the step ``t`` (from 1) with peak 1, scaled with ``*`` and joined with ``>>``;
``half_life`` gives decay rates themselves.

lr = 3e-4 * (warmup(200) >> cosine(9_800))
"""

from fallline.core.schedule import Joined, Scaled, Schedule
from fallline.schedules.basic import constant, cosine, cosine_restarts, exponential, step_decay, warmup
from fallline.schedules.half_life import half_life

__all__ = [
    "Joined",
    "Scaled",
    "Schedule",
    "constant",
    "cosine",
    "cosine_restarts",
    "exponential",
    "half_life",
    "step_decay",
    "warmup",
]
