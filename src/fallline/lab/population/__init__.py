"""Populations: many runs of one task and one method, with their own rates and seeds, trained at the same time.

from fallline.lab import RunSpec, train_population
specs = [RunSpec("digits-mlp", "adamw", (("lr", lr),), seed, 450, "tune") for lr in (1e-3, 1e-2) for seed in range(8)]
records = train_population(load("digits-mlp"), specs)
"""

from fallline.lab.population.stack import Alone
from fallline.lab.population.train import ROOM, train_population

__all__ = ["ROOM", "Alone", "train_population"]
