"""Diagonal curvature: the estimate against dense Hessians, exact and by differences, and the methods against twins in numpy."""

import numpy as np
import pytest
import torch
from torch import nn

from fallline import METHODS, Optimizer
from fallline.core.evaluate import along
from fallline.core.random import signs_like
from fallline.core.requests import probe
from fallline.lab.study import expand

NAMES = ("ada_oasis", "adahessian", "oasis", "sophia_h")
SLOTS = {"ada_oasis": "ada_oasis.d", "adahessian": "adahessian.d", "oasis": "oasis.d", "sophia_h": "sophia.d"}


def a_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return model, torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 2, dtype=torch.float64)


def closure_of(model, x, y, optimizer, graph):
    def closure():
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward(create_graph=graph)
        return loss

    return closure


def expected_estimate(model, x, y, names, seed=0):
    """z * (H z) by the dense Hessian of all parameters together."""
    params = dict(model.named_parameters())
    shapes = [p.shape for p in params.values()]

    def loss(flat):
        parts = torch.split(flat, [s.numel() for s in shapes])
        swapped = {n: part.view(s) for n, part, s in zip(params, parts, shapes, strict=True)}
        return (torch.func.functional_call(model, swapped, (x,)) - y).square().mean()

    flat = torch.cat([p.detach().flatten() for p in params.values()])
    z = torch.cat([probe(p, seed, n, "d", 1).flatten() for p, n in zip(params.values(), names, strict=True)])
    return z * (torch.func.hessian(loss)(flat) @ z)


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("graph", "rtol"), [(True, 1e-12), (False, 1e-8)])
def test_the_estimate_is_that_of_the_dense_hessian(name, graph, rtol):
    model, x, y = a_model()
    optimizer = Optimizer(model, METHODS[name]())
    expected = expected_estimate(model, x, y, [n for n, _ in model.named_parameters()])
    optimizer.step(closure_of(model, x, y, optimizer, graph))
    found = torch.cat([optimizer.state[p][SLOTS[name]].flatten() for p in model.parameters()])
    assert float((found - expected).abs().max()) <= rtol * float(expected.abs().max())


@pytest.mark.filterwarnings("ignore:Using backward")
def test_a_graph_needs_no_more_calls_and_leaves_everything_in_place():
    model, x, y = a_model()
    optimizer, calls = Optimizer(model, METHODS["oasis"](lr=0.0)), []
    before = [p.detach().clone() for p in model.parameters()]
    for graph, number in ((True, 1), (False, 3)):
        inner = closure_of(model, x, y, optimizer, graph)
        calls.clear()
        optimizer.step(lambda inner=inner: (calls.append(1), inner())[1])
        assert len(calls) == number
        assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


@pytest.mark.filterwarnings("ignore:Using backward")
def test_parameters_of_other_chains_stay_out_of_the_hessian():
    model, x, y = a_model()
    optimizer = Optimizer(model, {"0.*": METHODS["oasis"](), "*": METHODS["sgd"]()})
    optimizer.step(closure_of(model, x, y, optimizer, graph=True))
    model2, _, _ = a_model()
    for p in model2[2].parameters():
        p.requires_grad_(False)
    alone = Optimizer([(n, p) for n, p in model2.named_parameters() if p.requires_grad], METHODS["oasis"]())
    alone.step(closure_of(model2, x, y, alone, graph=True))
    for p, q in zip(model[0].parameters(), model2[0].parameters(), strict=True):
        assert torch.allclose(optimizer.state[p]["oasis.d"], alone.state[q]["oasis.d"], rtol=1e-12)


def test_the_estimate_is_right_on_average():
    """Hutchinson's mean over 4,000 draws comes within 4 of its standard errors of the diagonal."""
    made = torch.Generator().manual_seed(0)
    a = torch.randn(6, 6, generator=made, dtype=torch.float64)
    h = a @ a.mT
    z = torch.stack([signs_like(torch.empty(6, dtype=torch.float64), 123456789 << 20, t) for t in range(1, 4001)])
    draws = z * (z @ h)
    error = (draws.mean(0) - h.diagonal()).abs() / (draws.std(0) / 4000**0.5)
    assert float(error.max()) < 4
    assert set(z.unique().tolist()) == {-1.0, 1.0}


def test_signs_differ_by_name_step_and_seed():
    p = torch.empty(64)
    draws = [probe(p, s, n, "d", t) for s, n, t in ((0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1))]
    assert all(20 < int((x != y).sum()) < 44 for i, x in enumerate(draws) for y in draws[:i])
    unnamed = [nn.Parameter(torch.randn(8, dtype=torch.float64)) for _ in range(2)]
    optimizer = Optimizer(unnamed, METHODS["oasis"]())

    def closure():
        optimizer.zero_grad()
        loss = (unnamed[0] * unnamed[1]).sum()  # z1 * z2 off the diagonal, which is zero
        loss.backward()
        return loss

    optimizer.step(closure)
    assert 0 < int((optimizer.state[unnamed[0]]["oasis.d"] > 0).sum()) < 8


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_differences_have_the_stated_error(dtype, rtol):
    x = torch.linspace(-0.3, 0.3, 50, dtype=dtype)
    z = 1 - 2 * (torch.arange(50) % 2).to(dtype)
    (found,) = along(lambda at: [at[0].sin() + at[0] ** 2], [x], [z])
    assert float((found - z * (x.cos() + 2 * x)).abs().max()) < rtol
    (none,) = along(lambda at: [None], [x], [z])
    assert torch.equal(none, torch.zeros_like(x))


# -- twins --------------------------------------------------------------------------------------------------------------


def adahessian_twin(g, d, s, t, b1, b2, eps, power):
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * d**2
    return s["m"] / (1 - b1**t) / ((s["v"] / (1 - b2**t)) ** (power / 2) + eps)


def oasis_twin(g, d, s, t, b2, alpha):
    s["h"] = d if t == 1 else b2 * s["h"] + (1 - b2) * d
    return g / np.maximum(np.abs(s["h"]), alpha)


def sophia_twin(g, d, s, t, b1, b2, eps, gamma, every):
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
    if (t - 1) % every == 0:
        s["h"] = b2 * s.get("h", 0.0) + (1 - b2) * d
    return np.clip(s["m"] / np.maximum(gamma * s["h"], eps), -1, 1)


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize(
    ("name", "twin", "hypers"),
    [
        ("adahessian", adahessian_twin, {"b1": 0.8, "b2": 0.9, "eps": 1e-3, "power": 0.7}),
        ("oasis", oasis_twin, {"b2": 0.8, "alpha": 0.1}),
        ("sophia_h", sophia_twin, {"b1": 0.8, "b2": 0.7, "eps": 1e-3, "gamma": 2.0, "every": 3}),
    ],
)
def test_equals_its_twin(name, twin, hypers):
    """On a sum of sines, whose Hessian is diagonal and changes its sign."""
    p = nn.Parameter(torch.linspace(-2, 2, 12, dtype=torch.float64).view(3, 4))
    optimizer = Optimizer([p], METHODS[name](lr=0.1, weight_decay=0.1, **hypers))
    x, memory = p.detach().numpy().copy(), {}

    def closure():
        optimizer.zero_grad()
        loss = (2 * p).sin().sum() + p.square().sum()
        loss.backward(create_graph=True)
        return loss

    for t in range(1, 9):
        d = -4 * np.sin(2 * x) + 2
        x = x - 0.1 * (twin(2 * np.cos(2 * x) + 2 * x, d, memory, t, **hypers) + 0.1 * x)
        optimizer.step(closure)
        assert np.allclose(p.detach().numpy(), x, rtol=1e-9, atol=1e-11), t


@pytest.mark.filterwarnings("ignore:Using backward")
def test_adaptive_oasis_equals_its_twin():
    """Two tensors of a sum of sines, whose norms go together."""
    start = np.linspace(-2, 2, 12)
    p, q = (nn.Parameter(torch.tensor(x)) for x in np.split(start, [5]))
    optimizer = Optimizer([p, q], METHODS["ada_oasis"](b2=0.8, alpha=0.5, initial_step=1e-3))

    def closure():
        optimizer.zero_grad()
        loss = sum((2 * x).sin().sum() + x.square().sum() for x in (p, q))
        loss.backward(create_graph=True)
        return loss

    x, step, theta, h, before = start, 1e-3, 1e12, None, None
    for t in range(1, 12):
        g, d = 2 * np.cos(2 * x) + 2 * x, -4 * np.sin(2 * x) + 2
        h = d if t == 1 else 0.8 * h + 0.2 * d
        size = np.maximum(np.abs(h), 0.5)
        if before is not None:
            moved, turned = x - before[0], g - before[1]
            smooth = np.sqrt((moved**2 * size).sum()) / (2 * np.sqrt((turned**2 / size).sum()))
            new = min(np.sqrt(1 + theta) * step, smooth)
            step, theta = new, new / step
        before, x = (x, g), x - step * g / size
        optimizer.step(closure)
        assert np.allclose(torch.cat([p, q]).detach().numpy(), x, rtol=1e-9, atol=1e-11), t


def test_adahessian_averages_over_kernels():
    step = METHODS["adahessian"](b2=0.0, eps=0.0).steps[0]
    g = torch.ones(2, 1, 2, 2)
    d = torch.tensor([1.0, -3.0, 2.0, 2.0, 5.0, 5.0, -5.0, 5.0]).view(2, 1, 2, 2)
    zero = torch.zeros_like(g)
    u, _ = step.update(g, type("At", (), {"t": 1}), m=zero, v=zero, d=d)
    assert torch.allclose(u, torch.tensor([0.5, 0.2]).view(2, 1, 1, 1).expand_as(g))


def test_without_a_closure_the_error_says_what_to_write():
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.ones(2)
    optimizer = Optimizer([p], METHODS["oasis"]())
    with pytest.raises(RuntimeError, match=r"oasis needs the batch's gradient at another point"):
        optimizer.step()
    assert "asks      for an estimate of the Hessian's diagonal" in optimizer.explain()


def test_first_order_methods_are_without_them():
    assert not set(NAMES) & set(expand(["all-first-order"]))
    assert {"muon", "shampoo", "soap", "psgd"} <= set(expand(["all-first-order"]))
    assert set(NAMES) == set(expand(["curvature"]))
