"""Every solver has the order that it declares, and agrees with scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from fallline.core.errors import InvalidValueError
from fallline.flows import DORMAND_PRINCE, EULER, HEUN, MIDPOINT, RK4, heavy_ball_path, solve, solve_adaptive

START = torch.tensor([1.2, -0.4], dtype=torch.float64)


def pendulum(y):
    return torch.stack([y[1], -torch.sin(y[0]) - 0.1 * y[1]])


def reference(until):
    found = solve_ivp(
        lambda t, y: [y[1], -np.sin(y[0]) - 0.1 * y[1]], (0, until), START.numpy(), rtol=1e-12, atol=1e-13
    )
    return torch.tensor(found.y[:, -1])


@pytest.mark.parametrize("tableau", [EULER, MIDPOINT, HEUN, RK4, DORMAND_PRINCE], ids=lambda t: t.name)
def test_the_measured_order_is_the_declared_one(tableau):
    exact = reference(2.0)
    errors = [float((solve(pendulum, START, 2.0, n, tableau).end - exact).norm()) for n in (20, 40)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(tableau.order, abs=0.35)


@pytest.mark.parametrize("tableau", [EULER, MIDPOINT, HEUN, RK4, DORMAND_PRINCE], ids=lambda t: t.name)
def test_weights_are_consistent(tableau):
    assert sum(tableau.b) == pytest.approx(1)
    assert tableau.low is None or sum(tableau.low) == pytest.approx(1)
    assert [len(row) for row in tableau.a] == list(range(len(tableau.b)))


def test_the_adaptive_solver_keeps_its_tolerance_and_takes_as_many_evaluations_as_scipy():
    for rtol in (1e-4, 1e-8):
        ours = solve_adaptive(pendulum, START, 10.0, rtol=rtol, atol=rtol)
        theirs = solve_ivp(
            lambda t, y: [y[1], -np.sin(y[0]) - 0.1 * y[1]], (0, 10.0), START.numpy(), rtol=rtol, atol=rtol
        )
        assert float((ours.end - reference(10.0)).norm()) < 100 * rtol
        assert float(ours.times[-1]) == 10.0
        assert ours.num_evaluations < 1.5 * theirs.nfev


def test_steps_follow_the_scale_of_the_problem():
    def stiff_start(y):  # fast, then slow
        return torch.stack([-50 * (y[0] - torch.cos(y[1])), torch.ones_like(y[1])])

    path = solve_adaptive(stiff_start, torch.zeros(2, dtype=torch.float64), 2.0, rtol=1e-5)
    steps = path.times.diff()
    assert float(steps[2:5].max()) < 0.3 * float(steps.max())


def test_gradient_descent_is_eulers_method():
    w = torch.tensor([1.0, -2.0], dtype=torch.float64)
    assert torch.equal(solve(lambda y: -y, w, 0.3, 3, EULER).points[1], w - (0.3 / 3) * w)


def test_heavy_ball_without_momentum_is_euler():
    ball = heavy_ball_path(pendulum, START, 0.1, 0.0, 10)
    assert torch.allclose(ball.end, solve(pendulum, START, 1.0, 10, EULER).end, rtol=1e-12)
    assert float(ball.times[-1]) == pytest.approx(1.0)


def test_heavy_ball_solves_the_second_order_equation_with_order_one():
    c, errors = 1.5, []
    exact = solve(
        lambda s: torch.stack([s[1], -torch.sin(s[0]) - c * s[1]]),
        torch.tensor([1.0, 0.0], dtype=torch.float64),
        3.0,
        200,
    ).end[0]
    for s in (0.02, 0.01):
        path = heavy_ball_path(
            lambda y: -torch.sin(y), torch.ones(1, dtype=torch.float64), s**2, 1 - c * s, round(3 / s)
        )
        errors.append(float((path.end[0] - exact).abs()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.1)


def test_errors():
    with pytest.raises(InvalidValueError, match=r"steps=0. Expected at least 1"):
        solve(pendulum, START, 1.0, 0)
    with pytest.raises(InvalidValueError, match=r"rk4, which has no second set of weights"):
        solve_adaptive(pendulum, START, 1.0, tableau=RK4)
    with pytest.raises(InvalidValueError, match=r"cannot get beyond t = 1: steps shrank"):
        solve_adaptive(lambda y: y.square(), torch.ones(1, dtype=torch.float64), 2.0)  # blows up at 1
