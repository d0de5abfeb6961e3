"""Stochastic solvers have their strong orders; methods follow their equations."""

import math

import pytest
import torch

from fallline.core.errors import InvalidValueError
from fallline.flows import (
    AdamNoise,
    Sde,
    adam_sde,
    brownian,
    rmsprop_sde,
    sam_sde,
    sgd_sde,
    solve_sde,
    svag_gradient,
)

ONE = torch.ones(1, dtype=torch.float64)
GEOMETRIC = Sde(lambda x: 0.3 * x, lambda x: 0.8 * x, diagonal=True)


@pytest.mark.parametrize(("scheme", "order"), [("euler_maruyama", 0.5), ("milstein", 1.0), ("heun", 1.0)])
def test_strong_orders_on_geometric_brownian_motion(scheme, order):
    fine = brownian(256, 2000, 1, 1.0, seed=1)
    exact = torch.exp((0.3 - 0.32) + 0.8 * fine.sum(0))
    errors = []
    for k in (16, 4):  # steps of 16 and 4 of the finest
        coarse = fine.reshape(-1, k, 2000, 1).sum(1)
        errors.append(float((solve_sde(GEOMETRIC, ONE, coarse, 1.0, scheme) - exact).abs().mean()))
    assert math.log(errors[0] / errors[1], 4) == pytest.approx(order, abs=0.15)


def test_weak_order_one_of_euler_maruyama():
    misses = []
    for n in (4, 8):
        x = solve_sde(GEOMETRIC, ONE, brownian(n, 400_000, 1, 1.0, seed=2), 1.0)
        misses.append(abs(float(x.mean()) - math.exp(0.3)))
    assert misses[1] < 0.75 * misses[0]


def test_a_matrix_of_noise_correlates_coordinates():
    root = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    free = Sde(torch.zeros_like, lambda x: root)
    x = solve_sde(free, torch.zeros(2, dtype=torch.float64), brownian(4, 50_000, 2, 2.0), 2.0)
    assert torch.allclose(x.T @ x / len(x), 2.0 * root @ root.T, atol=0.05)
    with pytest.raises(InvalidValueError, match=r"'milstein' and general noise. Expected diagonal noise"):
        solve_sde(free, torch.zeros(2, dtype=torch.float64), brownian(4, 5, 2, 2.0), 2.0, "milstein")


def test_an_unknown_scheme():
    with pytest.raises(InvalidValueError, match=r"scheme='rk'. Expected one of euler_maruyama, heun, milstein"):
        solve_sde(GEOMETRIC, ONE, brownian(2, 2, 1, 1.0), 1.0, "rk")


def test_sgd_follows_its_second_order_equation_more_closely():
    lr, paths, made = 0.2, 50_000, torch.Generator().manual_seed(0)
    loss = lambda x: (x.square() / 2 + x**4 / 8).sum()  # noqa: E731
    x = torch.full((paths, 1), 1.5, dtype=torch.float64)
    for _ in range(5):
        noise = torch.randn(paths, 1, generator=made, dtype=torch.float64)
        x = x - lr * (x + x**3 / 2 + 0.5 * noise)
    misses = []
    for order in (1, 2):
        sde = sgd_sde(loss, lambda y: 0.5 * torch.ones_like(y), lr, order)
        y = solve_sde(sde, torch.full((1,), 1.5, dtype=torch.float64), brownian(40, paths, 1, 1.0, seed=3), 1.0)
        misses.append(abs(float(y.square().mean() - x.square().mean())))
    assert misses[1] < 0.3 * misses[0]


def test_rmsprop_follows_its_equation_where_noise_dominates():
    lr, paths, made = 0.05, 15_000, torch.Generator().manual_seed(0)
    sigma, method = 1 / lr, AdamNoise(lr=lr, b2=1 - 2 * lr**2, eps=0.1 / lr)
    x = torch.ones(paths, 1, dtype=torch.float64)
    v = sigma**2 * torch.ones_like(x)
    for _ in range(round(1 / lr**2)):
        g = x + sigma * torch.randn(x.shape, generator=made, dtype=torch.float64)
        x = x - lr * g / (v.sqrt() + method.eps)
        v = method.b2 * v + (1 - method.b2) * g * g
    sde = rmsprop_sde(lambda x: x.square().sum() / 2, torch.ones_like, method, sigma)
    start = torch.ones(2, dtype=torch.float64)  # theta = 1, u = 1
    y = solve_sde(sde, start, brownian(50, paths, 2, 1.0, seed=5), 1.0)[:, :1]
    assert float(x.square().mean() / y.square().mean()) == pytest.approx(1, abs=0.06)
    assert float(x.mean() / y.mean()) == pytest.approx(1, abs=0.06)


def test_adam_follows_its_equation_where_noise_dominates():
    lr, paths, made = 0.1, 10_000, torch.Generator().manual_seed(0)
    sigma, method = 1 / lr, AdamNoise(lr=lr, b1=1 - 4 * lr**2, b2=1 - lr**2, eps=0.2 / lr)
    x = torch.ones(paths, 1, dtype=torch.float64)
    m, v = torch.zeros_like(x), torch.zeros_like(x)
    for t in range(1, round(2 / lr**2) + 1):
        g = x + sigma * torch.randn(x.shape, generator=made, dtype=torch.float64)
        m, v = method.b1 * m + (1 - method.b1) * g, method.b2 * v + (1 - method.b2) * g * g
        x = x - lr * m / (1 - method.b1**t) / ((v / (1 - method.b2**t)).sqrt() + method.eps)
    sde = adam_sde(lambda x: x.square().sum() / 2, torch.ones_like, method, sigma)
    # one step in: the moments have seen one gradient
    m1 = (1 - method.b1) * (1 + sigma * torch.randn(paths, generator=made, dtype=torch.float64))
    ones = torch.ones_like(m1)
    start = torch.stack([ones, m1, lr**2 * ones, lr**2 * ones], dim=1)
    y = solve_sde(sde, start, brownian(200, paths, 4, 2.0, seed=6), 2.0)[:, :1]
    assert float(x.square().mean() / y.square().mean()) == pytest.approx(1, abs=0.06)


def test_adams_drift_is_its_formula():
    method, sigma = AdamNoise(lr=0.1, b1=0.9, b2=0.99, eps=0.5), 7.0
    sde = adam_sde(lambda x: (x**3).sum(), lambda x: 2 * torch.ones_like(x), method, sigma)
    state = torch.tensor([0.5, 0.3, 2.0, 1.5], dtype=torch.float64)
    c1, c2 = 0.1 / 0.01, 0.01 / 0.01
    gamma1, gamma2 = 1 - math.exp(-c1 * 1.5), 1 - math.exp(-c2 * 1.5)
    p = 0.7 * math.sqrt(2.0) + 0.05 * math.sqrt(gamma2)
    expected = [-math.sqrt(gamma2) / gamma1 * 0.3 / p, c1 * (0.75 - 0.3), c2 * (4 - 2.0), 1.0]
    assert sde.drift(state).tolist() == pytest.approx(expected)
    assert sde.diffusion(state).tolist() == pytest.approx([0.0, 0.7 * c1 * 2, 0.0, 0.0])


def test_svag_keeps_the_mean_and_multiplies_the_variance():
    made = torch.Generator().manual_seed(0)
    a, b = (3 + torch.randn(400_000, generator=made, dtype=torch.float64) for _ in range(2))
    assert torch.equal(svag_gradient(a, b, 1.0), a)
    for factor in (4.0, 16.0):
        found = svag_gradient(a, b, factor)
        assert float(found.mean()) == pytest.approx(3, abs=0.03)
        assert float(found.var()) == pytest.approx(factor, rel=0.02)
    with pytest.raises(InvalidValueError, match=r"factor=0.5. Expected at least 1"):
        svag_gradient(a, b, 0.5)


def test_svag_of_sgd_converges_to_the_equation():
    lr, paths, made = 0.3, 100_000, torch.Generator().manual_seed(0)
    gap = []
    sde = sgd_sde(lambda x: x.square().sum() / 2, torch.ones_like, lr)
    exact = math.exp(-2 * 1.5) + lr * (1 - math.exp(-2 * 1.5)) / 2
    assert float(sde.diffusion(ONE)) == pytest.approx(math.sqrt(lr))
    for level in (1, 4):
        x = torch.ones(paths, dtype=torch.float64)
        for _ in range(5 * level):
            a, b = (x + torch.randn(paths, generator=made, dtype=torch.float64) for _ in range(2))
            x = x - lr / level * svag_gradient(a, b, float(level))
        gap.append(abs(float(x.square().mean()) - exact))
    assert gap[1] < 0.5 * gap[0]


@pytest.mark.parametrize("kind", ["usam", "sam", "dnsam"])
def test_full_batch_sam_follows_its_drift(kind):
    h = torch.tensor([[2.0, 0.3], [0.3, 0.5]], dtype=torch.float64)
    loss = lambda x: x @ h @ x / 2 + (x**4).sum() / 10  # noqa: E731
    slope = torch.func.grad(loss)
    lr, rho = 0.002, 0.05
    start = torch.tensor([1.0, -1.5], dtype=torch.float64)
    x = start
    for _ in range(100):
        g = slope(x)
        x = x - lr * slope(x + rho * (g if kind == "usam" else g / g.norm()))
    with_rho, without = (
        solve_sde(
            sam_sde(lambda x: loss(x).unsqueeze(0), torch.zeros_like, lr, r, kind), start, brownian(30, 1, 2, 0.2), 0.2
        )[0]
        for r in (rho, 0.0)
    )
    assert float((with_rho - x).norm()) < 0.3 * float((without - x).norm())
    with pytest.raises(InvalidValueError, match=r"kind='asam'. Expected one of usam, sam, dnsam"):
        sam_sde(lambda x: loss(x).unsqueeze(0), torch.zeros_like, lr, rho, "asam")


def test_the_square_root_rule():
    scaled = AdamNoise(1e-3, 0.9, 0.99, 1e-8).scaled(4)
    assert (scaled.lr, scaled.b1, scaled.b2, scaled.eps) == pytest.approx((2e-3, 0.6, 0.96, 5e-9))
    assert AdamNoise(1e-3).scaled(2).scaled(0.5).b2 == pytest.approx(0.999)
    with pytest.raises(InvalidValueError, match=r"Expected both in \[0, 1\). Scale by at most 10"):
        AdamNoise(1e-3, 0.9).scaled(20)


def test_orders_of_the_sgd_equation():
    with pytest.raises(InvalidValueError, match=r"order=3. Expected 1 or 2"):
        sgd_sde(lambda x: x.sum(), torch.ones_like, 0.1, 3)
