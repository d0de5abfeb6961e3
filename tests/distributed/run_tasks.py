"""Small tasks for one run over many ranks."""

import torch
import torch.nn.functional as F
from torch import nn

from fallline.tasks import Metric, Task, Tensors


def mse(model, batch):
    return F.mse_loss(model(batch[0]), batch[1])


class Net(nn.Module):
    """Two blocks, one of which FSDP shards by itself, and a parameter that takes no part."""

    def __init__(self, unused=True, norm=False, dropout=0.0):
        super().__init__()
        self.first = nn.Linear(5, 7)
        self.blocks = nn.Sequential(nn.Linear(7, 7), nn.BatchNorm1d(7) if norm else nn.Tanh(), nn.Dropout(dropout))
        self.last = nn.Linear(7, 3)
        if unused:
            self.unused = nn.Linear(2, 2)

    def forward(self, x):
        return self.last(self.blocks(self.first(x)))


def make_task(**changes):
    x = torch.randn(112, 5, generator=torch.Generator().manual_seed(0))
    y = torch.randn(112, 3, generator=torch.Generator().manual_seed(1))
    fields = {
        "name": "net",
        "summary": "",
        "model": Net,
        "loss": mse,
        "train": Tensors(x[:99], y[:99]),  # a last batch of 3, and 13: of other sizes on other ranks
        "valid": Tensors(x[99:], y[99:]),
        "metric": Metric("MSE", mse),
        "target": 0.5,
        "batch_size": 12,
        "steps": 12,
        "num_evals": 4,
    }
    return Task(**{**fields, **changes})


def augmented():
    """Every number drawn changes an example of its own."""
    return make_task(augment=lambda batch, g: (batch[0] + torch.randn(batch[0].shape, generator=g), batch[1]))


def normed():
    return make_task(model=lambda: Net(norm=True, dropout=0.1))


def attribute():
    """A loss that uses parts of its model, and twice."""

    def loss(model, batch):
        return mse(model, batch) + 0.1 * model.last(model.first(batch[0])).square().mean()

    return make_task(loss=loss)
