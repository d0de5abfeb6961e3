"""A tiny task for tests of the engine: linear regression that trains in milliseconds."""

import copy
import os
import time

import torch
import torch.nn.functional as F
from torch import nn

from fallline.tasks import Metric, Task, Tensors


def mse(model, batch):
    x, y = batch
    return F.mse_loss(model(x).squeeze(1), y)


def data(n=64):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    return x, x @ torch.tensor([1.0, -2.0, 0.5, 0.0]) + 0.1


def make_task(**changes):
    fields = {
        "name": "small",
        "summary": "linear regression",
        "model": lambda: nn.Linear(4, 1),
        "loss": mse,
        "train": Tensors(*(a[:48] for a in data())),
        "valid": Tensors(*(a[48:] for a in data())),
        "metric": Metric("validation MSE", mse),
        "target": 0.5,
        "batch_size": 8,
        "steps": 40,
        "num_evals": 4,
    }
    return Task(**{**fields, **changes})


def noisy():
    """With augmentation and dropout, so that all four random streams are drawn from."""
    return make_task(
        name="noisy",
        model=lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1)),
        augment=lambda batch, g: (batch[0] + 0.1 * torch.randn(batch[0].shape, generator=g), batch[1]),
    )


def slow():
    """Slow enough to be killed half-way."""

    def lazy(model, batch):
        time.sleep(0.002)
        return mse(model, batch)

    return make_task(name="slow", loss=lazy)


def diverging():
    """Large rates blow up, small ones do not."""
    return make_task(name="diverging", loss=lambda m, b: 30 * mse(m, b))


def worsening():
    """The metric counts how far parameters have moved, so training only makes it worse."""
    zeros = nn.Linear(4, 1)
    nn.init.zeros_(zeros.weight), nn.init.zeros_(zeros.bias)
    return make_task(
        name="worsening",
        model=lambda: copy.deepcopy(zeros),
        metric=Metric("size", lambda m, b: sum(p.square().sum() for p in m.parameters())),
    )


def always_nan():
    """The loss is finite on the first batch only, so that the dry run passes."""
    calls = []

    def loss(model, batch):
        calls.append(1)
        return mse(model, batch) * (float("nan") if len(calls) > 1 else 1.0)

    return make_task(name="always-nan", loss=loss)


def broken():
    """Raises in the middle of a run."""
    calls = []

    def loss(model, batch):
        calls.append(1)
        if len(calls) > 20:
            raise RuntimeError("the user's bug")
        return mse(model, batch)

    return make_task(name="broken", loss=loss)


def suicidal():
    """Its process dies whenever a run reaches its tenth step."""
    calls = []

    def loss(model, batch):
        calls.append(1)
        if len(calls) > 10:
            os._exit(9)
        return mse(model, batch)

    return make_task(name="suicidal", loss=loss)


def branching():
    """A loss that looks at its value, which vmap cannot."""

    def loss(model, batch):
        found = mse(model, batch)
        return found if found > 0.1 else 2 * found

    return make_task(name="branching", loss=loss)
