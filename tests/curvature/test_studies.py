"""Slow: what papers say about curvature, on real data and over seeds. docs/curvature.md has what was measured."""

import math
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fallline.core.oracle import of_loss, of_module
from fallline.curvature import eigsh, gradient, hessian, spectral_density
from fallline.tasks import fetch, load

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


BINS = 46
"""Signed half decades from 1e-8 to 1e3, for spectra of both signs."""


def histogram(density):
    """The share of eigenvalues in each bin, smoothed over a decade on either side, since a few nodes stand for a whole spectrum."""
    x, w = density.nodes.reshape(-1), density.weights.reshape(-1) / len(density.nodes)
    size = (2 * x.abs().clamp(1e-8, 1e2).log10()).floor().long() + 17
    place = torch.where(x >= 0, size, -size) + 22
    shares = torch.zeros(BINS, dtype=torch.float64).index_add_(0, place.clamp(0, BINS - 1), w)
    kernel = torch.tensor([0.25, 0.5, 1.0, 0.5, 0.25], dtype=torch.float64)
    smooth = F.conv1d(shares[None, None], kernel[None, None], padding=2)[0, 0]
    return smooth / smooth.sum()


def js(p, q):
    """The Jensen-Shannon divergence in bits: 0 for equal distributions, 1 for distributions without common ground."""
    middle = ((p + q) / 2).clamp_min(1e-300)
    return float(sum(torch.special.xlogy(x, x / middle).sum() for x in (p, q)) / 2) / math.log(2)


def differences_of_blocks(name, steps):
    """The mean divergence between the spectra of two weight matrices of a task's model, after so many steps of AdamW at 1e-3."""
    task = load(name)
    torch.manual_seed(0)
    model = task.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        batch = fetch(task.train, torch.randint(len(task.train), (task.batch_size,)))
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()
    batch = fetch(task.train, torch.arange(16 if name == "shakespeare-gpt" else 64))
    h = hessian(of_loss(model, task.loss), batch)
    blocks = [block for n, block in h.blocks(by="tensor").items() if len(h.domain.shapes[n]) > 1]
    spectra = [histogram(spectral_density(block, num_probes=3, num_steps=20)) for block in blocks]
    pairs = [js(p, q) for p, q in combinations(spectra, 2)]
    return sum(pairs) / len(pairs)


@pytest.mark.slow
def test_blocks_of_transformers_have_spectra_less_alike_than_those_of_a_convolutional_network():
    """Zhang et al., arXiv:2402.16788."""
    found = {
        (name, steps): differences_of_blocks(name, steps)
        for name in ("fashion-resnet", "fashion-vit", "shakespeare-gpt")
        for steps in (0, 60)
    }
    for (name, steps), value in found.items():
        print(f"{name}, {steps} steps: {value:.2f}")
    for steps in (0, 60):
        assert found["fashion-resnet", steps] < 0.9 * min(found[n, steps] for n in ("fashion-vit", "shakespeare-gpt"))
