"""A small classifier in float64, its data, and its Hessian from torch.func, to compare with."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fallline.core.oracle import of_module


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


@pytest.fixture
def batch():
    made = torch.Generator().manual_seed(1)
    return torch.randn(24, 5, generator=made, dtype=torch.float64), torch.randint(3, (24,), generator=made)


@pytest.fixture
def oracle(model):
    return of_module(model, F.cross_entropy)


@pytest.fixture
def two_batches(batch):
    """The same examples in two batches of different sizes."""
    x, y = batch
    return [(x[:6], y[:6]), (x[6:], y[6:])]


@pytest.fixture
def exact(oracle, batch):
    """The Hessian as a matrix, by torch.func."""
    params = {name: p.detach() for name, p in oracle.params.items()}
    blocks = torch.func.hessian(lambda p: oracle.loss(p, batch))(params)
    return torch.cat([torch.cat([blocks[a][b].reshape(params[a].numel(), -1) for b in params], 1) for a in params])
