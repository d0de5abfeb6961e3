"""Losses and metrics shared by tasks: functions of (model, batch) that return a mean over the batch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fallline.tasks.datasets import Batch
from fallline.tasks.task import Metric

__all__ = ["ERROR", "cross_entropy"]


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Mean negative log-likelihood in nats; the classes are the model's last dimension, the targets any shape before."""
    inputs, targets = batch
    return F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())


def _error(model: nn.Module, batch: Batch) -> Tensor:
    inputs, targets = batch
    wrong: Tensor = model(inputs).argmax(-1) != targets
    return 100 * wrong.float().mean()


ERROR = Metric("validation error", _error, unit="%")
"""The share of validation examples that are classified wrongly, in per cent."""
