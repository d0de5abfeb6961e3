"""The gradient noise scale of a model before and after training, for comparisons of batch sizes."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import torch
from torch import nn

from fallline.core.oracle import of_loss
from fallline.curvature import noise_scale
from fallline.lab.run import RunSpec, advance, begin, finish
from fallline.lab.streams import generator
from fallline.tasks import Task, fetch

__all__ = ["train_and_measure"]

EXAMPLES, PARTS, ROUNDS = 2048, 16, 10
"""Examples of the training data, how many small batches they make, and rounds, each of half of them against single small ones."""


def train_and_measure(task: Task, spec: RunSpec) -> dict[str, Any]:
    """The record of ``train``, with ``noise_scale``: tr(covariance) / |gradient|^2 in examples, initially and at the end."""
    running = begin(task, spec)
    before = _measured(task, running.model, spec.seed)
    deque(advance(task, running), maxlen=0)
    after = _measured(task, running.model, spec.seed) if running.record.diverged_at is None else None
    return {**finish(task, running), "noise_scale": {"initial": before, "trained": after}}


def _measured(task: Task, model: nn.Module, seed: int) -> dict[str, Any]:
    """The estimate from two batch sizes with its 95 % interval; None in place of what is not finite, as where no signal is left."""
    small = min(EXAMPLES, len(task.train)) // PARTS
    if small < 1:
        return {"value": None, "low": None, "high": None, "why": f"{len(task.train)} training examples are too few"}
    chosen = torch.randperm(len(task.train), generator=generator(seed, "noise", 0))[: small * PARTS]
    try:
        found = noise_scale(
            of_loss(model, task.loss),
            fetch(task.train, chosen),
            small_size=small,
            big_size=small * PARTS // 2,
            num_rounds=ROUNDS,
        )
    except Exception as error:  # of a loss that takes whole batches only; no reason to lose a study
        return {"value": None, "low": None, "high": None, "why": f"{type(error).__name__}: {error}"[:200]}
    low, high = found.interval()
    numbers = {"value": found.value, "low": low, "high": high}
    return {
        **{k: x if math.isfinite(x) else None for k, x in numbers.items()},
        "examples": len(chosen),
        "small": small,
        "big": small * PARTS // 2,
    }
