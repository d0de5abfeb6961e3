"""Slow: what papers say about curvature, on real data and over seeds. docs/curvature.md has what was measured."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fallline.core.oracle import of_module
from fallline.curvature import eigsh, gradient, hessian
from fallline.tasks import load

SEEDS = range(3)


def digits():
    data = load("digits-mlp").train
    return data.batch(torch.arange(len(data)))


def shares(seed, batch_size, steps=500, every=100):
    """The share of the whole gradient in the space of the ten top eigenvectors, from step 200 on, and at the start."""
    x, y = digits()
    x = x.flatten(1)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    oracle = of_module(model, F.cross_entropy)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found, pairs = {}, None
    for step in range(steps + 1):
        if step == 0 or (step >= 200 and step % every == 0):
            pairs = eigsh(hessian(oracle, (x, y)), 10, tol=1e-2, start=pairs)
            found[step] = pairs.share(pairs.space.flatten(gradient(oracle, (x, y))))
        drawn = torch.randint(len(x), (batch_size,)) if batch_size else torch.arange(len(x))
        optimizer.zero_grad()
        F.cross_entropy(model(x[drawn]), y[drawn]).backward()
        optimizer.step()
    late = [share for step, share in found.items() if step]
    return found[0], sum(late) / len(late)


@pytest.mark.slow
def test_the_gradient_lies_in_the_space_of_ten_eigenvectors():
    """Gur-Ari et al., arXiv:1812.04754: most of it does; measured, with mini-batches, and nothing without their noise."""
    small, whole = [shares(seed, 16) for seed in SEEDS], [shares(seed, 0) for seed in SEEDS]
    for name, runs in (("batches of 16", small), ("all examples", whole)):
        start, late = (sum(values) / len(values) for values in zip(*runs, strict=True))
        print(f"{name}: at the start {start:.2f}, later {late:.2f}, seeds {[round(b, 2) for _, b in runs]}")
    assert min(late for _, late in small) > 0.5
    assert max(late for _, late in whole) < 0.1
