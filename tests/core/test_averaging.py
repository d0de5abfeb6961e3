"""Evaluation at averages and at snapshots: statistics of batch normalisation, and what comes back afterwards."""

import doctest
import importlib
import math

import pytest
import torch
from torch import nn

import fallline
from fallline import METHODS, Optimizer
from fallline.schedules import cosine_restarts
from fallline.testing.harness import parameters

sgd, swa = METHODS["sgd"], METHODS["swa"]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)).double()


def batches(n=4):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 3, generator=generator, dtype=torch.float64) for _ in range(n)]


def trained(method, steps=6, **options):
    model = network()
    optimizer = Optimizer(model, method, **options)
    return model, optimizer, lambda: train(model, optimizer, steps)


def train(model, optimizer, steps):
    for t in range(steps):
        optimizer.zero_grad()
        model(batches()[t % 4]).square().mean().backward()
        optimizer.step()


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same_state(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def test_statistics_are_the_averages_in_the_block_and_the_training_points_after_it():
    model, optimizer, run = trained(swa(0.1))
    run()
    before = state(model)
    for data in (batches(), [(x, "label") for x in batches()]):
        with fallline.averaged(optimizer, model, data):
            hidden = torch.stack([model[0](x) for x in batches()])
            assert torch.allclose(model[1].running_mean, hidden.mean((0, 1)))
            unbiased = torch.stack([h.var(0) for h in hidden]).mean(0)
            assert torch.allclose(model[1].running_var, unbiased)
            assert not torch.equal(model[0].weight, before["0.weight"])
        assert same_state(state(model), before)
    with pytest.raises(ZeroDivisionError), fallline.averaged(optimizer, model, batches()):
        raise ZeroDivisionError
    assert same_state(state(model), before)


def test_averaged_refuses_half_of_what_statistics_need():
    model, optimizer, _ = trained(swa(0.1))
    with pytest.raises(ValueError, match=r"got a model and no batches\. Statistics .* need both\. Write"):
        fallline.averaged(optimizer, model).__enter__()
    with pytest.raises(ValueError, match=r"got batches and no model\. Statistics .* need both\. Write"):
        fallline.averaged(optimizer, batches=batches()).__enter__()
    plain = nn.Linear(3, 2)
    with pytest.raises(ValueError, match=r"got a Linear without batch normalisation .* Expected one with it\. Write"):
        fallline.averaged(Optimizer(plain, swa(0.1)), plain, batches()).__enter__()


def test_snapshots_are_the_models_at_the_ends_of_cycles():
    model, optimizer, run = trained(sgd(0.1 * cosine_restarts(3, growth=1.0)), steps=1)
    snapshots = fallline.Snapshots(optimizer, model, every=3)
    path = []
    for _ in range(8):
        run()
        path.append(state(model))
    assert len(snapshots) == 2
    last = state(model)
    for found, t in zip(snapshots, (3, 6), strict=True):
        assert found is model
        assert same_state(state(model), path[t - 1])
    assert same_state(state(model), last)
    for _ in snapshots:
        break  # leaving early puts the model back, too
    assert same_state(state(model), last)


def test_snapshots_keep_the_last_ones_and_those_taken_by_hand():
    model, optimizer, run = trained(sgd(0.1), steps=1)
    snapshots = fallline.Snapshots(optimizer, model, every=1, keep=2)
    for _ in range(5):
        run()
    assert len(snapshots) == 2
    optimizer.zero_grad()
    optimizer.step()  # without gradients nothing has happened
    model(torch.full((4, 3), math.nan, dtype=torch.float64)).sum().backward()
    optimizer.step()  # and a skipped step is none
    path = [state(m) for m in snapshots]
    snapshots.take()
    assert len(snapshots) == 2
    assert same_state(next(iter(state(m) for m in snapshots)), path[1])


def test_the_rates_of_a_snapshot_ensemble():
    steps, members, peak = 40, 4, 0.2
    rate = peak * cosine_restarts(steps // members, growth=1.0)
    for t in range(1, steps + 1):
        cycle = math.ceil(steps / members)
        assert rate(t) == pytest.approx(peak / 2 * (math.cos(math.pi * ((t - 1) % cycle) / cycle) + 1))


def test_snapshots_refuse_what_they_cannot_keep():
    model, optimizer, _ = trained(sgd(0.1))
    with pytest.raises(TypeError, match=r"got a SGD\. Expected a fallline optimizer\. Write"):
        fallline.Snapshots(torch.optim.SGD(parameters(), 0.1), model, every=3)
    with pytest.raises(TypeError, match=r"got a list\. Expected a model\. Write"):
        fallline.Snapshots(optimizer, [model], every=3)
    for name in ("every", "keep"):
        with pytest.raises(ValueError, match=rf"got {name}=0\. Expected a whole number, at least 1\. Write"):
            fallline.Snapshots(optimizer, model, **{"every": 3, name: 0})


def test_docstring_examples():
    for module in ("averaging", "snapshots"):
        result = doctest.testmod(importlib.import_module(f"fallline.core.{module}"))
        assert result.attempted > 0
        assert result.failed == 0
