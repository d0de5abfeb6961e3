"""Simulated relaxation and stochastic L-BFGS by hand."""

import math

import numpy as np
import pytest
import torch
from curved import data, direction, gradient_of, mlp, softmax

from fallline.core.errors import InvalidTypeError, InvalidValueError
from fallline.curvature import ggn, hessian
from fallline.objectives import sam
from fallline.second_order import stochastic_lbfgs, tngd, two_loop


def test_steps_of_the_simulation_by_hand():
    oracle, batch = softmax(mlp()), data()
    a, g = ggn(oracle, batch).dense(), gradient_of(oracle, batch)
    x = torch.zeros_like(g)
    for _ in range(3):
        x = x - 0.2 * (a @ x + 0.5 * x - g)
    torch.testing.assert_close(direction(tngd(oracle, 0.5, time=0.6, num_steps=3), batch), x)


def test_the_noise_has_the_temperature():
    oracle, batch = softmax(mlp()), data()
    cold, warm = (tngd(oracle, time=0.1, num_steps=1, temperature=t, seed=1) for t in (0.0, 4.0))
    noise = (direction(warm, batch) - direction(cold, batch)) / math.sqrt(2 * 4.0 * 0.1)
    assert abs(float(noise.mean())) < 3 / math.sqrt(51)
    assert 0.6 < float(noise.std()) < 1.4
    torch.testing.assert_close(direction(warm, batch), direction(warm, batch), rtol=0, atol=0)


def test_steps_that_do_not_settle_are_an_error():
    with pytest.raises(InvalidValueError, match=r"tngd\(\) met a curvature of .*Raise num_steps"):
        direction(tngd(softmax(mlp()), 50.0, time=1.0, num_steps=10), data())


def bfgs_inverse(s, y):
    """The formula of BFGS on the inverse, from the same beginning."""
    h = np.eye(s.shape[1]) * (s[-1] @ y[-1]) / (y[-1] @ y[-1])
    for a, b in zip(s, y, strict=True):
        rho = 1 / (a @ b)
        left = np.eye(len(a)) - rho * np.outer(a, b)
        h = left @ h @ left.T + rho * np.outer(a, a)
    return h


def test_two_loops_are_the_formula():
    random = np.random.default_rng(0)
    root = random.normal(size=(6, 6))
    s = random.normal(size=(4, 6))
    y = s @ (root @ root.T + np.eye(6))
    g = random.normal(size=6)
    found = two_loop(*(torch.from_numpy(v) for v in (g, s, y)))
    np.testing.assert_allclose(found.numpy(), bfgs_inverse(s, y) @ g, rtol=1e-10)


def test_pairs_are_between_means_of_iterates():
    model = mlp()
    oracle = softmax(model)
    solver = stochastic_lbfgs(oracle, num_pairs=1, every=2)
    points = []
    for i in range(4):
        points.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        found = direction(solver, data(seed=i), statistics=True)
        if i < 3:
            assert torch.equal(found, gradient_of(oracle, data(seed=i)))
            with torch.no_grad():
                for p in model.parameters():
                    p.mul_(0.9)
    s = (points[2] + points[3]) / 2 - (points[0] + points[1]) / 2
    at = dict(zip(oracle.params, ((points[2] + points[3]) / 2).split([24, 6, 18, 3]), strict=True))
    at = {n: x.view_as(oracle.params[n]) for n, x in at.items()}
    y = hessian(oracle, data(seed=3), at) @ s
    assert "s" in solver.state
    torch.testing.assert_close(solver.state["s"][0], s)
    torch.testing.assert_close(solver.state["y"][0], y)
    torch.testing.assert_close(found, two_loop(gradient_of(oracle, data(seed=3)), s[None], y[None]))


def test_errors_say_what_to_do():
    oracle = softmax(mlp())
    with pytest.raises(InvalidValueError, match=r"num_steps=0"):
        tngd(oracle, num_steps=0)
    with pytest.raises(InvalidValueError, match=r"time is 0.*above 0"):
        tngd(oracle, time=0.0)
    with pytest.raises(InvalidValueError, match=r"temperature is -1"):
        tngd(oracle, temperature=-1.0)
    with pytest.raises(InvalidTypeError, match=r"tngd\(\) got an objective"):
        tngd(sam(oracle))
    with pytest.raises(InvalidValueError, match=r"num_pairs=0, every=10"):
        stochastic_lbfgs(oracle, num_pairs=0)
    with pytest.raises(InvalidTypeError, match=r"stochastic_lbfgs differentiates"):
        stochastic_lbfgs(sam(oracle))
