"""A small ReLU classifier in float64 and its data."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fallline.core.oracle import of_module


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).double()


@pytest.fixture
def batch():
    made = torch.Generator().manual_seed(1)
    return torch.randn(24, 5, generator=made, dtype=torch.float64), torch.randint(3, (24,), generator=made)


@pytest.fixture
def oracle(model):
    return of_module(model, F.cross_entropy)
