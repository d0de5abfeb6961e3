"""What must move when the batch or the width grows: batch sizes as schedules, noise tests, scaling rules, muP."""

from fallline.scaling.batches import BatchSizeScheduler, Step
from fallline.scaling.coordinates import Coordinates, coordinate_check
from fallline.scaling.mup import Plan, mup, rate_factor
from fallline.scaling.noise import Parts, cabs, coordinate_test, inner_product_test, norm_test
from fallline.scaling.recipe import large_batch, no_decay_groups
from fallline.scaling.rescaling import batch_sharpness, correct_momentum, rescale
from fallline.scaling.rules import RULES, Rule, surge
from fallline.scaling.trade import Traded, grow_batch
from fallline.scaling.widths import Width, growth

__all__ = [
    "RULES",
    "BatchSizeScheduler",
    "Coordinates",
    "Parts",
    "Plan",
    "Rule",
    "Step",
    "Traded",
    "Width",
    "batch_sharpness",
    "cabs",
    "coordinate_check",
    "coordinate_test",
    "correct_momentum",
    "grow_batch",
    "growth",
    "inner_product_test",
    "large_batch",
    "mup",
    "no_decay_groups",
    "norm_test",
    "rate_factor",
    "rescale",
    "surge",
]
