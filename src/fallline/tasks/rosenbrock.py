"""Rosenbrock's curved valley in 32 dimensions: easy to enter, slow to follow.

The mean over 16 pairs (x, y) of 100 (y - x^2)^2 + (1 - x)^2, the extended Rosenbrock function (Moré, Garbow and Hillstrom
1981, doi:10.1145/355934.355936, problem 21) divided by 16, from the usual (-1.2, 1) with noise of 0.1, so that seeds differ.
There is no data: the data set is one example that the function does not look at. The metric is the decimal logarithm of the
function; its only minimum is 0, at ones.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fallline.core.space import log
from fallline.tasks.data import Arrays
from fallline.tasks.datasets import Batch, Tensors
from fallline.tasks.entry import Entry
from fallline.tasks.generated import Generated
from fallline.tasks.task import Metric

__all__ = ["ROSENBROCK"]

PAIRS = 16
FLOOR = 1e-12  # about the square of float32's rounding


class Valley(nn.Module):
    """Any input to the terms of the 16 pairs, (16,)."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs = nn.Parameter(torch.tensor([[-1.2], [1.0]]) + 0.1 * torch.randn(2, PAIRS))

    def forward(self, _: Tensor) -> Tensor:
        x, y = self.pairs
        return 100 * (y - x * x).square() + (1 - x).square()


def height(model: nn.Module, batch: Batch) -> Tensor:
    """The mean over pairs."""
    mean: Tensor = model(batch[0]).mean()
    return mean


def _logarithm(model: nn.Module, batch: Batch) -> Tensor:
    return torch.log10(height(model, batch).clamp_min(FLOOR))


def make() -> Arrays:
    """One zero, uint8 (1, 1)."""
    return (np.zeros((1, 1), np.uint8),)


def split(nothing: np.ndarray) -> tuple[Tensors, Tensors]:
    """One example (1, 1), for training and for the metric."""
    data = Tensors(torch.from_numpy(nothing).float())
    return data, data


NO_DATA = Generated(
    key="nothing",
    name="no data",
    origin="made by fallline.tasks.rosenbrock",
    size="1 + 1 (the same) empty example",
    sha256="6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    make=make,
)

ROSENBROCK = Entry(
    name="rosenbrock",
    summary="follow Rosenbrock's curved valley in 32 dimensions, without noise",
    corpus=NO_DATA,
    split=split,
    model=Valley,
    loss=height,
    metric=Metric("log10 of the loss", _logarithm),
    # At the full budget, 5 % warm-up, cosine, torch 2.13, one thread, seed 1: Nesterov -4.28 at lr 2e-2, -2.42 at 1e-2,
    # -0.76 at 3e-3; AdamW -1.76 at 1, -1.63 at 0.3, -1.08 at 0.1; SGD -0.25 at 2e-2, 0.38 at 1e-2.
    # Each is `fallline run rosenbrock --method M --set lr=L --seed 1`.
    target=-2.0,
    target_note="Nesterov reaches it; SGD and AdamW do not",
    batch_size=1,
    steps=1500,
    spaces={"adamw": {"lr": log(1e-3, 10.0)}, "sgd": {"lr": log(1e-5, 1e-1)}, "nesterov": {"lr": log(1e-5, 1e-1)}},
)
