"""Compare optimizers on your own model: write one function that returns a Task.

    fallline compare examples/own_model.py:make_task --methods adamw,lion --budget quick

The study then tunes every method equally, reruns the best settings on fresh seeds, and writes an HTML report.
"""

import torch
import torch.nn.functional as F
from torch import nn

from fallline.tasks import Metric, Task, Tensors

NUM_EXAMPLES, NUM_FEATURES = 1200, 20
HELD_OUT = 300  # validation examples; never trained on


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(NUM_FEATURES, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1)
        )

    def forward(self, x):
        return self.body(x).squeeze(1)


def data():
    """A regression table with interactions and noise; put your own tensors here."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(NUM_EXAMPLES, NUM_FEATURES, generator=generator)
    y = x[:, 0] * x[:, 1] + torch.sin(2 * x[:, 2]) + 0.5 * x[:, 3:8].sum(1)
    return x, y + 0.1 * torch.randn(NUM_EXAMPLES, generator=generator)


def loss(model, batch):
    inputs, targets = batch
    return F.mse_loss(model(inputs), targets)


def make_task():
    x, y = data()
    return Task(
        name="my-regression",
        summary="a small regression network on a table with interactions",
        model=Net,  # called once per run, under that run's seed
        loss=loss,  # mean loss of a batch
        train=Tensors(x[HELD_OUT:], y[HELD_OUT:]),  # or any dataset with __len__ and __getitem__
        valid=Tensors(x[:HELD_OUT], y[:HELD_OUT]),
        metric=Metric("validation MSE", loss, minimize=True),
        target=0.2,  # a value worth reaching: time-to-target is measured against it
        batch_size=32,
        steps=400,  # the full budget; the learning rate decays to zero over it
    )
