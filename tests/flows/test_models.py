"""Solvable models against simulation and closed forms."""

import math

import pytest
import torch

from fallline.core.errors import InvalidValueError
from fallline.flows import (
    LionFlow,
    OrnsteinUhlenbeck,
    Sde,
    brownian,
    exit_steps,
    flow_solution,
    flow_solution_sharpness,
    random_walk_shares,
    sgd_covariance,
    solve_levy,
    solve_sde,
    stable,
)

A = torch.tensor([[1.0, 0.4], [0.4, 2.0]], dtype=torch.float64)
Q = torch.tensor([[0.5, 0.1], [0.1, 0.3]], dtype=torch.float64)


def test_the_process_against_simulation():
    process, start = OrnsteinUhlenbeck(A, Q), torch.tensor([1.0, -1.0], dtype=torch.float64)
    root = torch.linalg.cholesky(Q)
    x = solve_sde(Sde(lambda x: -A @ x, lambda x: root), start, brownian(60, 30_000, 2, 0.6), 0.6)
    assert torch.allclose(x.mean(0), process.mean(start, 0.6), atol=0.02)
    assert torch.allclose(torch.cov(x.T), process.covariance(0.6), atol=0.01)
    assert torch.allclose(process.covariance(50.0), process.covariance())
    assert torch.allclose(process.covariance(0.0), torch.zeros(2, 2, dtype=torch.float64), atol=1e-12)


def test_sgd_on_one_coordinate():
    h, c, lr = torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([[3.0]], dtype=torch.float64), 0.1
    assert float(sgd_covariance(h, c, lr)) == pytest.approx(lr * 3 / (2 * (2 - lr * 2)))
    assert float(OrnsteinUhlenbeck.of_sgd(h, c, lr).covariance()) == pytest.approx(lr * 3 / 4)


def test_no_stationary_state():
    with pytest.raises(InvalidValueError, match=r"direction of rate -1 and no stationary state"):
        OrnsteinUhlenbeck(-torch.eye(2, dtype=torch.float64), Q).covariance()


def test_shares_of_a_random_walk():
    shares = random_walk_shares(100_000)
    assert float(shares[0]) == pytest.approx(0.6079, abs=1e-4)
    assert float(shares.sum()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("alpha", [0.8, 1.0, 1.5, 2.0])
def test_stable_numbers_have_their_characteristic_function(alpha):
    x = stable(alpha, (200_000,), seed=3)
    for omega in (0.3, 1.0, 2.0):
        assert float((omega * x).cos().mean()) == pytest.approx(math.exp(-(omega**alpha)), abs=0.01)
    with pytest.raises(InvalidValueError, match=r"alpha=2.5. Expected a number in \(0, 2\]"):
        stable(2.5, (3,))


def test_levy_paths_with_alpha_two_are_brownian():
    jumps = stable(2.0, (50, 20_000, 1), seed=0)
    x = solve_levy(torch.zeros_like, torch.zeros(1, dtype=torch.float64), 2.0, 0.5, jumps, 2.0)
    assert float(x[-1].var()) == pytest.approx(2 * 0.25 * 2.0, rel=0.03)


def test_exits():
    points = torch.tensor([[[0.0], [0.0]], [[0.5], [2.0]], [[3.0], [0.0]], [[0.0], [0.0]]])
    assert exit_steps(points, 1.0).tolist() == [2, 1]
    assert exit_steps(points, 9.0).tolist() == [3, 3]


def test_scalar_networks():
    w = torch.tensor([2.0, 0.4, 0.7], dtype=torch.float64)
    end = flow_solution(w)
    assert float(end.prod()) == pytest.approx(1)
    assert torch.allclose(end.square().diff(), w.square().diff())
    assert flow_solution_sharpness(torch.ones(4, dtype=torch.float64)) == pytest.approx(4)
    with pytest.raises(InvalidValueError, match=r"Expected all above 0\. Flip the signs of pairs"):
        flow_solution(-w)


def test_lions_conjugate_and_bound():
    flow = LionFlow(weight_decay=0.5, smoothing=0.2)
    y = torch.tensor([0.3, -0.6], dtype=torch.float64)
    grid = torch.linspace(-50, 50, 200_001, dtype=torch.float64)
    brute = sum(float((v * grid - (grid.square() + 0.04).sqrt() + 0.2).max()) for v in y)
    at_zero = flow.lyapunov(lambda x: 0.0 * x.sum(), torch.cat([y / 0.5, torch.zeros(2, dtype=torch.float64)]))
    share = 0.5 / 1.25  # (1 - eps gamma) / (1 + eps lambda)
    assert float(at_zero) == pytest.approx((1 / 0.5 + share) * brute, rel=1e-6)
    outside = torch.tensor([2.1, 0.0, 0.0, 0.0], dtype=torch.float64)
    assert math.isinf(flow.lyapunov(lambda x: x.sum(), outside))
