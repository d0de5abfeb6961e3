"""Studies of a minute or two; docs/scaling.md holds what they measured."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fallline
from fallline.methods import adam
from fallline.scaling import mup
from fallline.tasks import load

RATES = [2.0**k for k in range(-10, -3)]
SEEDS, STEPS, BATCH, BASE = 3, 60, 32, 64


def mlp(width):
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def train(width, lr, parametrisation, seed, data):
    x, y = data
    torch.manual_seed(seed)
    model = mlp(width)
    torch.manual_seed(seed + 1000)
    groups = mup(model, mlp(BASE)).groups(adam(lr)) if parametrisation == "mup" else model.named_parameters()
    optimizer = fallline.Optimizer(groups, adam(lr))
    drawn = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        i = torch.randint(len(x), (BATCH,), generator=drawn)
        optimizer.zero_grad()
        F.cross_entropy(model(x[i]), y[i]).backward()
        optimizer.step()
    with torch.no_grad():
        return float(F.cross_entropy(model(x), y))


@pytest.mark.slow
def test_the_best_rate_stays_under_mup_and_moves_without():
    task = load("digits-mlp")
    data = task.train.batch(torch.arange(len(task.train)))
    best = {}
    for width, parametrisation in (
        (BASE, "standard"),
        (1024, "mup"),
        (1024, "standard"),
    ):  # at the base width both are one
        losses = [sum(train(width, lr, parametrisation, s, data) for s in range(SEEDS)) / SEEDS for lr in RATES]
        best[width, parametrisation] = RATES[losses.index(min(losses))]
        print(width, parametrisation, [f"{loss:.4f}" for loss in losses], f"best {best[width, parametrisation]:g}")
    home = best[BASE, "standard"]
    assert 0.5 <= best[1024, "mup"] / home <= 2
    assert home / best[1024, "standard"] >= 4
