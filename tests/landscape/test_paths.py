"""Straight lines and curves between two points."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fallline.optim
from fallline.core.errors import InvalidValueError
from fallline.core.oracle import of_loss, of_module
from fallline.landscape import Path, connect, interpolate, snapshot


def double_well():
    """A ring of minima of radius 1, two of them, and a hill of height 1 between."""
    module = nn.Module()
    module.w = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def loss(model, batch):
        x, y = model.w
        return (x**2 + y**2 - 1) ** 2

    return of_loss(module, loss), [{"w": torch.tensor([s, 0.0], dtype=torch.float64)} for s in (-1.0, 1.0)]


def test_the_barrier_of_a_double_well():
    oracle, (a, b) = double_well()
    found = interpolate(oracle, torch.zeros(1), a, b)
    x = 2 * found.positions - 1
    torch.testing.assert_close(found.losses, (x**2 - 1) ** 2)
    assert found.barrier == found.highest == 1.0


def test_a_barrier_is_above_the_line_between_the_ends():
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    assert Path(t, 3 * t).barrier == 0
    assert Path(t, 3 * t + torch.tensor([0, 0, 0.5, 0, 0])).barrier == pytest.approx(0.5)
    assert Path(t, (t - 0.5) ** 2).barrier == 0


def test_a_curve_goes_round():
    oracle, (a, b) = double_well()
    oracle.module.w.data = torch.tensor([0.0, 0.0], dtype=torch.float64)
    found = connect(
        oracle, torch.zeros(1), {"w": a["w"] + 0.01}, b, steps=100, optimizer=partial(torch.optim.Adam, lr=0.05)
    )
    assert found.straight.highest > 0.9
    assert found.path.highest < 0.3  # a parabola is no circle: with its bend at (0, 2) it ends at 0.33
    assert len(found.training_losses) == 100
    middle = (found.start["w"] + 2 * found.bend["w"] + found.end["w"]) / 4
    torch.testing.assert_close(found.at(0.5)["w"], middle)
    torch.testing.assert_close(found.at(1.0)["w"], b["w"])


def test_the_first_step_follows_the_gradient_of_the_loss_at_a_place_of_the_curve(oracle, batch):
    a = snapshot(oracle)
    b = {name: p.flip(0) for name, p in a.items()}
    found = connect(oracle, batch, a, b, steps=1, optimizer=partial(torch.optim.SGD, lr=0.1), seed=5)
    t = float(torch.rand(1, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
    middle = {name: ((p + b[name]) / 2).requires_grad_() for name, p in a.items()}
    at = {n: (1 - t) ** 2 * a[n] + 2 * t * (1 - t) * m + t**2 * b[n] for n, m in middle.items()}
    loss = oracle.loss(at, batch)
    loss.backward()
    assert float(found.training_losses[0]) == pytest.approx(float(loss.detach()), rel=1e-12)
    for name, m in middle.items():
        torch.testing.assert_close(found.bend[name], (m - 0.1 * m.grad).detach())


def test_our_optimizers_and_loaders_of_batches(oracle, batch):
    x, y = batch
    a = snapshot(oracle)
    b = {name: p.flip(0) for name, p in a.items()}
    loader = iter([(x[:8], y[:8]), (x[8:], y[8:])])  # read once
    found = connect(oracle, loader, a, b, steps=60, optimizer=partial(fallline.optim.AdamW, lr=1e-2))
    assert found.path.losses.mean() < found.straight.losses.mean()
    assert torch.equal(oracle.params["0.weight"], a["0.weight"])


def test_batch_normalisation_uses_the_batch():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double()
    x, y = torch.randn(20, 4).double(), torch.randint(3, (20,))
    oracle = of_module(model, F.cross_entropy)
    a = snapshot(oracle)
    b = {name: p.flip(0) for name, p in a.items()}
    found = connect(oracle, (x, y), a, b, steps=2)
    assert torch.equal(found.straight.losses, interpolate(oracle, (x, y), a, b, batch_statistics=True).losses)
    assert not torch.equal(found.straight.losses, interpolate(oracle, (x, y), a, b).losses)
    assert not model[1].running_mean.any()
    whole = [{**p, **dict(model.named_buffers())} for p in (a, b)]
    assert torch.equal(connect(oracle, (x, y), *whole, steps=2).path.losses, found.path.losses)


def test_errors(oracle, batch):
    a = snapshot(oracle)
    with pytest.raises(InvalidValueError, match=r"num=2. Expected at least 3 places"):
        interpolate(oracle, batch, a, a, num=2)
    with pytest.raises(InvalidValueError, match=r"connect\(\) got steps=0. Expected at least 1"):
        connect(oracle, batch, a, a, steps=0)
    with pytest.raises(InvalidValueError, match=r"connect\(\) got points without '0.weight'. Expected all trainable"):
        connect(oracle, batch, {"0.bias": a["0.bias"]}, {"0.bias": a["0.bias"]})
    with pytest.raises(InvalidValueError, match=r"Two points differ in '0.bias'"):
        connect(oracle, batch, a, {n: p for n, p in a.items() if n != "0.bias"})
