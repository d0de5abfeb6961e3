"""SINGD and AdaFisher by hand: a step of the roots, running means of the squares, structures, and options that are refused."""

import pytest
import torch
from curved import data, direction, drawn, mlp, softmax
from torch import nn

from fallline.core.errors import FalllineError, InvalidValueError
from fallline.second_order import adafisher, singd


def factors_of(oracle, batch):
    """A and G of a single linear layer without a bias, from the losses' own gradients."""
    x, y = batch
    z = oracle.module(x).detach().requires_grad_()
    (delta,) = torch.autograd.grad(nn.functional.cross_entropy(z, y, reduction="sum"), z)
    return x.T @ x / len(x), delta.T @ delta / len(x)


def single():
    return softmax(drawn(nn.Sequential(nn.Linear(4, 3, bias=False))))


@pytest.mark.parametrize("structure", ["dense", "diagonal"])
def test_two_steps_of_the_roots_are_those_of_the_paper(structure):
    oracle, batch = single(), data()
    a, g = factors_of(oracle, batch)
    keep = (lambda m: torch.diag(m.diagonal())) if structure == "diagonal" else (lambda m: m)
    k, c = torch.eye(4, dtype=a.dtype), torch.eye(3, dtype=a.dtype)
    m_k, m_c = torch.zeros_like(k), torch.zeros_like(c)
    solver = singd(oracle, 0.2, structure=structure, rate=0.05, alpha=0.3)
    for _ in range(2):
        h_k, h_c = keep(k.T @ a @ k), keep(c.T @ g @ c)
        m_k = 0.3 * m_k + 0.5 * (h_c.trace() / 3 * h_k + 0.2 * (c.T @ c).trace() / 3 * k.T @ k - torch.eye(4))
        m_c = 0.3 * m_c + 0.5 * (h_k.trace() / 4 * h_c + 0.2 * (k.T @ k).trace() / 4 * c.T @ c - torch.eye(3))
        k, c = k - 0.05 * k @ m_k, c - 0.05 * c @ m_c
        found = direction(solver, batch, statistics=True)
    grad = oracle.value_and_grad(oracle.params, batch)[1]["0.weight"]
    torch.testing.assert_close(found.view(3, 4), c @ c.T @ grad @ k @ k.T)
    kept = solver.state["0.k"]
    torch.testing.assert_close(torch.diag(kept) if structure == "diagonal" else kept, k)


def test_a_normalised_rate_is_never_longer():
    oracle, batch = softmax(mlp()), data()
    batch = (100 * batch[0], batch[1])
    wild, tame = (singd(oracle, rate=0.1, normalise=n) for n in (False, True))
    for solver in (wild, tame):
        direction(solver, batch, statistics=True)
    eye = torch.eye(5, dtype=torch.float64)
    assert (wild.state["0.k"] - eye).abs().max() > 0.2
    assert (tame.state["0.k"] - eye).abs().max() <= 0.1 + 1e-12


def test_roots_move_when_they_are_due():
    oracle, batch = softmax(mlp()), data()
    solver = singd(oracle, every=3)
    seen = []
    for _ in range(4):
        direction(solver, batch, statistics=True)
        seen.append(solver.state["0.k"].clone())
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], seen[2])
    assert not torch.equal(seen[2], seen[3])


def test_adafishers_means_are_those_of_the_authors_code():
    oracle, batch = single(), data()
    a, g = (m.diagonal() for m in factors_of(oracle, batch))
    h, s = torch.ones(4, dtype=a.dtype), torch.ones(3, dtype=a.dtype)
    solver = adafisher(oracle, 0.05, forget=0.9, weight=0.4, every=2)
    grad = oracle.value_and_grad(oracle.params, batch)[1]["0.weight"]
    for t in range(4):
        if t % 2 == 0:
            h = 0.1 * h + 0.4 * (a - a.min()) / (a.max() - a.min())
            s = 0.1 * s + 0.4 * (g - g.min()) / (g.max() - g.min())
        found = direction(solver, batch, statistics=True)
        torch.testing.assert_close(found.view(3, 4), grad / (torch.outer(s, h) + 0.05), rtol=1e-6, atol=1e-9)


def test_adafisher_divides_other_parameters_by_one():
    oracle, batch = softmax(drawn(nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)))), data()
    d = adafisher(oracle, 0.25).value_and_grad(oracle.params, batch)[1]
    g = oracle.value_and_grad(oracle.params, batch)[1]
    torch.testing.assert_close(d["1.weight"], g["1.weight"] / 1.25)


@pytest.mark.parametrize(("make", "message"), [
    (lambda o: singd(o, structure="sparse"), "structure of factors 'sparse'"),
    (lambda o: singd(o, rate=0.0), r"rate is 0\.0.*above 0"),
    (lambda o: singd(o, alpha=1.5), r"alpha is 1\.5.*at most 1"),
    (lambda o: singd(o, damping=0.0), r"damping is 0\.0"),
    (lambda o: adafisher(o, forget=0.0), r"forget is 0\.0"),
    (lambda o: adafisher(o, weight=0.0), r"weight is 0\.0"),
    (lambda o: adafisher(o, every=0), "every=0"),
])  # fmt: skip
def test_options_are_checked(make, message):
    with pytest.raises(FalllineError, match=message):
        make(softmax(mlp()))


def test_models_without_such_layers_are_refused():
    for make, name in ((singd, "singd"), (adafisher, "adafisher")):
        with pytest.raises(InvalidValueError, match=rf"{name}\(\) found no linear"):
            make(softmax(nn.Sequential(nn.LayerNorm(4))))
