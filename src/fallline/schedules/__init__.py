"""Schedules: pure functions of the step ``t`` (from 1) with peak 1, scaled with ``*``, joined with ``>>`` and added with ``+``;
``half_life`` gives decay rates themselves.

lr = 3e-4 * (warmup(200) >> cosine(9_800))
"""

from fallline.core.schedule import Joined, Product, Scaled, Schedule, Shifted, Sum
from fallline.schedules.basic import constant, cosine, cosine_restarts, exponential, step_decay, warmup
from fallline.schedules.cycles import one_cycle, triangular
from fallline.schedules.decays import inverse_sqrt, multi_step, one_minus_sqrt, polynomial
from fallline.schedules.drift import Tracking, tracking_rates
from fallline.schedules.half_life import half_life
from fallline.schedules.interop import from_torch, to_torch
from fallline.schedules.parse import parse
from fallline.schedules.phases import exponential_warmup, untuned_warmup, wsd
from fallline.schedules.points import piecewise, tabulated
from fallline.schedules.theory import Bound, best_cooldown, last_iterate_bound, transfer_lr

__all__ = [
    "Bound",
    "Joined",
    "Product",
    "Scaled",
    "Schedule",
    "Shifted",
    "Sum",
    "Tracking",
    "best_cooldown",
    "constant",
    "cosine",
    "cosine_restarts",
    "exponential",
    "exponential_warmup",
    "from_torch",
    "half_life",
    "inverse_sqrt",
    "last_iterate_bound",
    "multi_step",
    "one_cycle",
    "one_minus_sqrt",
    "parse",
    "piecewise",
    "polynomial",
    "step_decay",
    "tabulated",
    "to_torch",
    "tracking_rates",
    "transfer_lr",
    "triangular",
    "untuned_warmup",
    "warmup",
    "wsd",
]
