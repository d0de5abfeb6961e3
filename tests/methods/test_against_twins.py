"""The adaptive methods and SGD's relatives against their twins, over 20 steps in float64."""

import math

import pytest
import torch

from fallline import METHODS, Optimizer
from fallline.schedules import half_life, warmup
from fallline.testing.harness import gradients, parameters
from methods.twins import adaptive as twins

SHAPES = ((4, 3), (3, 5), (5,), (2, 3, 2), (3, 1, 2, 2), ())


def name_of(twin):
    return next(name for name, found in vars(twins).items() if found is twin)


def run_both(chain, twin, hypers, shapes=SHAPES, steps=20):
    params = parameters(shapes, torch.float64)
    lists, memory = [p.detach().flatten().tolist() for p in params], [{} for _ in params]
    optimizer = Optimizer(params, chain)
    for t in range(1, steps + 1):
        for p, g, x, s in zip(params, gradients(params, t), lists, memory, strict=True):
            p.grad = g
            twin(x, g.flatten().tolist(), s, t, tuple(p.shape), **hypers)
        optimizer.step()
    for p, x in zip(params, lists, strict=True):
        gap = (p.detach().flatten() - torch.tensor(x, dtype=torch.float64)).abs().max()
        assert float(gap) <= 1e-10 * max(map(abs, x)), tuple(p.shape)
    return params, memory


@pytest.mark.parametrize(
    ("twin", "hypers"), twins.CASES, ids=[f"{name_of(t)}-{i}" for i, (t, _) in enumerate(twins.CASES)]
)
def test_equals_its_twin(twin, hypers):
    run_both(METHODS[name_of(twin)](**hypers), twin, hypers)


def test_every_tensor_of_swats_switches_by_itself_and_lr_stays():
    hypers = {"lr": 0.05, "b1": 0.9, "b2": 0.99, "eps": 1e-2}
    _, memory = run_both(METHODS["swats"](**hypers), twins.swats, hypers, steps=30)
    switched = ["rate" in s for s in memory]
    assert any(switched)
    params = parameters(SHAPES, torch.float64)
    optimizer = Optimizer(params, METHODS["swats"](**hypers))
    for t in range(1, 31):
        for p, g in zip(params, gradients(params, t), strict=True):
            p.grad = g
        optimizer.step()
    assert [bool(optimizer.state[p]["swats.rate"] > 0) for p in params] == switched
    assert optimizer.param_groups[0]["lr"] == 0.05


def test_projection_is_taken_by_rows_by_the_whole_and_not_at_all():
    hypers = {**twins.ADAM, **twins.PROJECTED}
    taken = set()
    for p, g in zip(parameters(SHAPES, torch.float64), gradients(parameters(SHAPES, torch.float64), 1), strict=True):
        x, y = p.detach().flatten().tolist(), g.flatten().tolist()
        taken.add(twins._project(x, y, y, tuple(p.shape), hypers["delta"], 1e-3)[1])
    assert taken == {True, False}, "the cases above try one branch only"


def test_ademamix_with_its_schedules():
    hypers = {**twins.ADAM, "b3": 0.999, "alpha": 4.0, "weight_decay": 0.1}
    scheduled = {**hypers, "alpha": 4.0 * warmup(12), "b3": half_life(0.9, 0.999, 12)}
    run_both(METHODS["ademamix"](**scheduled), twins.ademamix, {**hypers, "warm": 12})


def test_adagrad_norm_takes_the_norm_of_all_tensors():
    params = parameters(SHAPES, torch.float64)
    lists, total = [p.detach().flatten().tolist() for p in params], 0.3**2
    optimizer = Optimizer(params, METHODS["adagrad_norm"](lr=0.5, b0=0.3))
    for t in range(1, 21):
        grads = gradients(params, t)
        total += sum(x * x for g in grads for x in g.flatten().tolist())
        for p, g, x in zip(params, grads, lists, strict=True):
            p.grad = g
            x[:] = [a - 0.5 / math.sqrt(total) * b for a, b in zip(x, g.flatten().tolist(), strict=True)]
        optimizer.step()
    for p, x in zip(params, lists, strict=True):
        assert torch.allclose(p.detach().flatten(), torch.tensor(x, dtype=torch.float64), rtol=1e-10, atol=1e-12)


def test_half_life():
    b3 = half_life(0.9, 0.999, 100)
    assert b3(100) == b3(500) == pytest.approx(0.999, rel=1e-14)
    lives = [math.log(0.5) / math.log(b3(t)) for t in (20, 40, 60)]
    assert lives[2] - lives[1] == pytest.approx(lives[1] - lives[0])
    with pytest.raises(ValueError, match=r"has no half-lives between its ends\. Expected rates in \(0, 1\)"):
        half_life(0.0, 0.999, 100)
