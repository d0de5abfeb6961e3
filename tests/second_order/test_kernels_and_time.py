"""EigenPro and TENG against what can be written down by hand; their claims say how far they get."""

import pytest
import torch
from torch import nn

from fallline.second_order import eigenpro, project, teng


def kernel(a, b):
    return torch.exp(-torch.cdist(a, b))


def some_data(n=30):
    random = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, generator=random, dtype=torch.float64), torch.randn(
        n, generator=random, dtype=torch.float64
    )


def test_one_full_step_flattens_the_top_of_the_spectrum():
    """From zero on all data: weights = lr / n (I - V (1 - s_{q+1} / s) V^T) y, since a step's function has K in front of it."""
    x, y = some_data()
    model = eigenpro(kernel, x, y, rank=4, subsample=30, batch_size=30, epochs=1)
    s, v = torch.linalg.eigh(kernel(x, x))
    s, v = s.flip(0), v.flip(1)
    flat = y - v[:, :4] @ ((1 - s[4] / s[:4]) * (v[:, :4].T @ y))
    assert torch.allclose(model.weights[:, 0], model.lr / 30 * flat, rtol=1e-9)
    top = torch.linalg.eigvalsh(kernel(x, x) - (v[:, :4] * (s[:4] - s[4])) @ v[:, :4].T)[-1]
    assert float(top) == pytest.approx(float(s[4]))


def test_without_a_preconditioner_it_is_plain_gradient_descent():
    x, y = some_data()
    model = eigenpro(kernel, x, y, rank=0, subsample=30, batch_size=30, epochs=2)
    k, weights = kernel(x, x), torch.zeros(30, dtype=torch.float64)
    assert model.lr == pytest.approx(30 / (1 + 29 * float(torch.linalg.eigvalsh(k)[-1]) / 30))
    assert model.gain == pytest.approx(1)
    for _ in range(2):
        weights = weights - model.lr / 30 * (k @ weights - y)
    assert torch.allclose(model.weights[:, 0], weights, rtol=1e-9)
    assert torch.allclose(model(x)[:, 0], k @ weights, rtol=1e-9)
    assert model.losses[0] == pytest.approx(float(y.square().mean()) / 2)


@pytest.mark.parametrize("wrong", [{"rank": 40}, {"batch_size": 31}, {"epochs": 0}, {"subsample": 31}])
def test_numbers_that_do_not_fit_the_data_are_refused(wrong):
    x, y = some_data()
    with pytest.raises(ValueError, match=r"30 inputs.*Expected"):
        eigenpro(kernel, x, y, **{"rank": 3, "batch_size": 10, **wrong})


class Line(nn.Module):
    """a + b x, on which least squares is exact."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (0.3, -0.2))

    def forward(self, x):
        return self.a + self.b * x


def test_a_projection_onto_a_linear_model_is_least_squares():
    model, x = Line(), torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
    target = x[:, 0] ** 2
    left = project(model, x, target, num_steps=15)
    slope, offset = float(model.b), float(model.a)
    design = torch.cat([torch.ones_like(x), x], 1)
    expected = torch.linalg.lstsq(design, target[:, None]).solution[:, 0]
    assert torch.allclose(torch.tensor([offset, slope], dtype=torch.float64), expected, atol=1e-9)
    assert left == pytest.approx(float((target - design @ expected).norm() / target.norm()))


@pytest.mark.parametrize(("scheme", "factor"), [("euler", 1.1), ("heun", 1.105)])
def test_a_step_in_time_of_growth_is_that_of_its_scheme(scheme, factor):
    """u_t = u from a + b x: every coefficient grows by 1 + dt, or by 1 + dt + dt^2 / 2."""
    model, x = Line(), torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
    teng(model, x, lambda u, points: u(points), 0.1, scheme=scheme)
    assert float(model.a) == pytest.approx(0.3 * factor, rel=1e-9)
    assert float(model.b) == pytest.approx(-0.2 * factor, rel=1e-9)


def test_wrong_shapes_and_schemes_are_named():
    x = torch.zeros(4, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"target \(4, 1\).*Flatten"):
        project(Line(), x, torch.zeros(4, 1))
    with pytest.raises(ValueError, match="scheme of teng"):
        teng(Line(), x, lambda u, points: u(points), 0.1, scheme="rk4")
