"""What must move when the batch or the width grows: batch sizes as schedules, noise tests, scaling rules, muP."""

from fallline.scaling.batches import BatchSizeScheduler, Step
from fallline.scaling.noise import Parts, cabs, coordinate_test, inner_product_test, norm_test
from fallline.scaling.recipe import large_batch, no_decay_groups
from fallline.scaling.rescaling import batch_sharpness, correct_momentum, rescale
from fallline.scaling.rules import RULES, Rule, surge
from fallline.scaling.trade import Traded, grow_batch

__all__ = [
    "RULES",
    "BatchSizeScheduler",
    "Parts",
    "Rule",
    "Step",
    "Traded",
    "batch_sharpness",
    "cabs",
    "coordinate_test",
    "correct_momentum",
    "grow_batch",
    "inner_product_test",
    "large_batch",
    "no_decay_groups",
    "norm_test",
    "rescale",
    "surge",
]
