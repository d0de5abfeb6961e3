"""Methods that keep state in subspaces, brake, freeze, or step by Polyak's rule, against their twins; identities and refusals."""

import numpy as np
import pytest
import torch

import fallline
from fallline import METHODS, Optimizer
from fallline.core.execute import compiler_available
from fallline.core.kernel import Kernel
from fallline.core.random import normal_like, permutation
from fallline.core.rounding import stream_key
from fallline.testing.harness import drive, gradients, parameters, same
from methods.test_free import gap, ours, scripted
from methods.twins import more as twins

SHAPES = ((6, 4), (3, 5), (5,), (2, 3, 2), ())
STEPS = 20
ADAM = {"lr": 0.05, "b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.1}
SUBSPACE = {**ADAM, "density": 0.5, "gap": 6}

CASES = [
    ("adams", ADAM),
    ("step_adam", {**ADAM, "freeze_at": 7}),
    ("adaptive_braking", {"lr": 0.05, "momentum": 0.8, "rho": 1.5}),
    ("alr_hb", {"lr": 0.3, "momentum": 0.7, "c": 0.7, "f_star": 0.1}),
    ("alr_hb", {"lr": 1e9, "momentum": 0.7, "c": 1.0, "f_star": 0.1}),
    ("psps", {"lr": 0.3, "c": 0.7, "f_star": 0.1, "b2": 0.95, "eps": 1e-3, "preconditioner": "adam"}),
    ("psps", {"lr": 1e9, "c": 3.0, "f_star": 0.1, "b2": 0.95, "eps": 1e-3, "preconditioner": "adagrad"}),
    ("truncated_model", {"lr": 0.3, "f_star": 0.1}),
    ("entropy_sgd", {"lr": 0.1, "gamma": 0.3, "outer": 0.7, "b1": 0.6, "num_inner": 4, "weight_decay": 0.1}),
    ("galore", {k: v for k, v in SUBSPACE.items() if k != "eps"} | {"scale": 0.5}),
    ("adam_snsm", SUBSPACE),
    ("frugal", SUBSPACE),
]


def theirs(name, **values):
    def oracle(k, x):
        loss, grads = scripted(k, [torch.from_numpy(np.asarray(a)) for a in x])
        return float(loss), [g.numpy() for g in grads]

    start = [p.detach().numpy() for p in parameters(SHAPES, torch.float64)]
    return [torch.as_tensor(np.asarray(x)) for x in getattr(twins, name)(start, STEPS, oracle, **values)]


def drawn(x0, n):
    """The columns that FRUGAL draws for one of the tensors: they belong to its name, which is its place here."""
    shapes = [p.shape for p in parameters(SHAPES)]
    key = torch.tensor(stream_key(0, f"parameter {shapes.index(x0.shape)} of group 0:frugal.stream"))
    columns = x0[0].size
    return permutation(columns, key, n)[: max(1, round(0.5 * columns))].numpy()


@pytest.mark.parametrize(("name", "values"), CASES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CASES)])
def test_equals_its_paper(name, values):
    params = parameters(SHAPES, torch.float64)
    silent = {"eps": 0.0} if name == "entropy_sgd" else {}  # the noise has a test of its own
    end = ours(Optimizer(params, METHODS[name](**values, **silent)), params)
    other = {k: v for k, v in values.items() if not (name == "frugal" and k == "density")}
    assert gap(end, theirs(name, **other, **({"drawn": drawn} if name == "frugal" else {}))) < 1e-9
    assert gap(end, parameters(SHAPES, torch.float64)) > 1e-3, "it moved"


def end_of(chain, steps=8, shapes=SHAPES):
    params = parameters(shapes, torch.float64)
    drive(Optimizer(params, chain), range(1, steps + 1))
    return [p.detach() for p in params]


def test_two_ways_to_the_same_steps():
    m = METHODS
    assert same(end_of(m["adams"](0.1, weight_decay=0.0)), end_of(m["adam"](0.1)), 1e-12)
    assert same(end_of(m["step_adam"](0.1, freeze_at=8)), end_of(m["adam"](0.1)), 1e-12)
    assert same(end_of(m["adaptive_braking"](0.1, rho=0.0)), end_of(m["sgd"](0.1, momentum=0.9)), 1e-12)
    assert same(end_of(m["frugal"](0.1, density=1.0, gap=100)), end_of(m["adam"](0.1)), 1e-12)
    assert same(end_of(m["adam_snsm"](0.1, density=1.0, gap=3)), end_of(m["adam_sn"](0.1)), 1e-9)
    vectors = ((5,), ())
    assert same(end_of(m["galore"](0.1), shapes=vectors), end_of(m["adam"](0.1, eps=1e-6), shapes=vectors), 1e-12)


def test_the_noise_of_entropy_sgd_is_langevins():
    noisy, silent = (end_of(METHODS["entropy_sgd"](0.04, eps=e, num_inner=100), steps=1) for e in (0.5, 0.0))
    scale = torch.cat([(a - b).flatten() for a, b in zip(noisy, silent, strict=True)]) / (0.04**0.5 * 0.5)
    assert 0.6 < float(scale.std()) < 1.4
    assert len(set(scale.tolist())) == scale.numel()


def test_noisy_sgd_is_sgd_on_noisy_gradients():
    params, x = parameters(SHAPES, torch.float64), parameters(SHAPES, torch.float64)
    drive(Optimizer(params, METHODS["noisy_sgd"](0.1, momentum=0.5, eta=0.3, weight_decay=0.1)), (1, 2, 3))
    for i, p in enumerate(x):
        key = torch.tensor(stream_key(0, f"parameter {i} of group 0:add_noise.stream"))
        p, m = p.detach(), 0.0
        for t in (1, 2, 3):
            noise = (0.3 / t**0.55) ** 0.5 * normal_like(p, key, t)
            m = 0.5 * m + gradients(x, t)[i] + 0.1 * p + noise
            p = p - 0.1 * m
        assert torch.allclose(params[i].detach(), p, rtol=1e-12)


def test_entropy_sgd_is_evaluated_at_its_anchor():
    params = parameters(SHAPES, torch.float64)
    start = [p.detach().clone() for p in params]
    optimizer = Optimizer(params, METHODS["entropy_sgd"](0.1, num_inner=4))
    drive(optimizer, (1, 2, 3))
    with fallline.averaged(optimizer):
        assert same([p.detach() for p in params], start)
    drive(optimizer, (4,))
    with fallline.averaged(optimizer):
        assert not same([p.detach() for p in params], start, 1e-6)


def test_frugal_draws_other_columns_in_every_period_and_by_the_seed():
    def columns(seed, periods):
        (p,) = parameters(((4, 12),), torch.float64)
        optimizer = Optimizer([("w", p)], METHODS["frugal"](1.0, density=0.25, gap=2, eps=1e3), seed=seed)
        found = []
        for t in range(1, 2 * periods + 1):
            before = p.detach().clone()
            drive(optimizer, (t,))
            found.append(frozenset(torch.nonzero(((before - p.detach()).abs() < 0.5).all(0)).flatten().tolist()))
        assert all(len(f) == 3 for f in found)
        assert found[::2] == found[1::2]
        return found[::2]

    assert len(set(columns(0, 6))) > 3
    assert columns(0, 6) == columns(0, 6) != columns(1, 6)


def test_adam_mini_takes_one_second_moment_for_each_head():
    p = parameters(((6, 4),), torch.float64)
    optimizer = Optimizer(p, METHODS["adam_mini"](0.1, num_heads=3, weight_decay=0.0))
    x, m, v = p[0].detach().clone(), torch.zeros(6, 4, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for t in range(1, 6):
        g = gradients(p, t)[0]
        drive(optimizer, (t,))
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * torch.stack([(g[2 * h : 2 * h + 2] ** 2).mean() for h in range(3)])
        for h in range(3):
            rows = slice(2 * h, 2 * h + 2)
            x[rows] -= 0.1 * m[rows] / (1 - 0.9**t) / ((v[h] / (1 - 0.999**t)).sqrt() + 1e-8)
    assert torch.allclose(p[0].detach(), x, rtol=1e-12)
    assert optimizer.state[p[0]]["shared_adam.v"].numel() == 3


def test_what_is_refused():
    for name in ("galore", "frugal", "adam_snsm"):
        for bad in (0.0, 1.5):
            with pytest.raises(ValueError, match=r"Expected a share of the dimensions in \(0, 1\]\. Write"):
                METHODS[name](density=bad)
        with pytest.raises(ValueError, match=r"got gap=0\. Expected a whole number of steps, at least 1"):
            METHODS[name](gap=0)
    with pytest.raises(ValueError, match=r"freeze_at=1\.5\. Expected a whole number of steps"):
        METHODS["step_adam"](freeze_at=1.5)
    with pytest.raises(ValueError, match=r"num_inner=0\. Expected a whole number, at least 1"):
        METHODS["entropy_sgd"](num_inner=0)
    with pytest.raises(ValueError, match=r"num_heads=-1\. Expected a whole number, at least 1"):
        METHODS["adam_mini"](num_heads=-1)
    with pytest.raises(
        ValueError, match=r"num_heads=4 got a matrix of shape \(6, 4\).*Expected queries or keys.*groups"
    ):
        Optimizer(parameters(((6, 4),)), METHODS["adam_mini"](num_heads=4))
    with pytest.raises(ValueError, match=r"Unknown preconditioner of psps 'adan'\. Did you mean adam"):
        METHODS["psps"](preconditioner="adan")


@pytest.mark.skipif(not compiler_available(), reason="no C++ compiler on this machine")
def test_decompositions_are_taken_when_due_and_never_compiled(monkeypatch):
    def compiled(*args):
        raise ZeroDivisionError

    eigh, taken = torch.linalg.eigh, []
    monkeypatch.setattr(torch.linalg, "eigh", lambda x: taken.append(1) or eigh(x))
    monkeypatch.setattr(Kernel, "of", staticmethod(compiled))
    for name in ("galore", "adam_snsm"):
        taken.clear()
        params = parameters(((6, 4),))
        drive(Optimizer(params, METHODS[name](0.1, gap=3), fuse="leaf"), range(1, 8))
        assert len(taken) == 3
    with pytest.raises(ZeroDivisionError):
        drive(Optimizer(params, METHODS["frugal"](0.1), fuse="leaf"), (1,))


@pytest.mark.parametrize("lr", [0.05, 0.4])
def test_smb_equals_its_paper(lr):
    eta, c = 0.9, 0.3
    params = parameters(SHAPES, torch.float64)

    def problem(x, k):  # a convex function that changes with the step, its gradients
        noise = gradients(x, k, 0.3)
        loss = sum(float((p**4).sum() / 4 + (p * n).sum()) for p, n in zip(x, noise, strict=True))
        return loss, [p**3 + n for p, n in zip(x, noise, strict=True)]

    optimizer, accepted = Optimizer(params, METHODS["smb"](lr, eta, c)), set()
    x = [p.detach().clone() for p in params]
    for k in range(1, 13):

        def closure(k=k):
            loss, grads = problem([p.detach() for p in params], k)
            for p, g in zip(params, grads, strict=True):
                p.grad = g
            return torch.tensor(loss, dtype=torch.float64)

        optimizer.step(closure)
        loss, g = problem(x, k)
        trial, h = problem([a - lr * b for a, b in zip(x, g, strict=True)], k)
        accepted.add(trial <= loss - c * lr * sum(float((b * b).sum()) for b in g))
        if trial <= loss - c * lr * sum(float((b * b).sum()) for b in g):
            x = [a - lr * b for a, b in zip(x, g, strict=True)]
            continue
        for i in range(len(x)):
            s, y = -lr * g[i].flatten(), (h[i] - g[i]).flatten()
            flat = g[i].flatten()
            delta = s.norm() * (y.norm() + flat.norm() / eta) - y @ s
            theta = (y @ s + delta) ** 2 - (s @ s) * (y @ y)
            cg = -(s @ s) / delta
            cy = -(s @ s) / (delta * theta) * (-(y @ s + delta) * (s @ flat) + (s @ s) * (y @ flat))
            cs = -(s @ s) / (delta * theta) * (-(y @ s + delta) * (y @ flat) + (y @ y) * (s @ flat))
            x[i] = x[i] + (cg * flat + cy * y + cs * s).view_as(x[i])
    assert gap([p.detach() for p in params], x) < 1e-9
    assert (False in accepted) == (lr == 0.4)
    assert (True in accepted) or lr == 0.4
