"""The metric of a model on a task's whole validation set."""

from __future__ import annotations

import torch
from torch import nn

from fallline.tasks.datasets import fetch
from fallline.tasks.task import Task

__all__ = ["evaluate"]


def evaluate(task: Task, model: nn.Module) -> float:
    """The mean of ``task.metric`` over all validation examples, in evaluation mode and without gradients.

    The set is taken in chunks of twice the batch size, each weighted by its number of examples, so the result does not
    depend on how it divides. Afterwards every module is back in the mode (train or eval) that it was in.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    total, count = 0.0, len(task.valid)
    try:
        with torch.no_grad():
            for indices in torch.split(torch.arange(count), 2 * task.batch_size):
                total += float(task.metric.fn(model, fetch(task.valid, indices))) * len(indices)
    finally:
        for module, mode in modes:
            module.training = mode
    return total / count
