"""Newton steps against dense linear algebra and scipy; exits at negative curvature; saddle-free steps."""

import numpy as np
import pytest
import torch
from curved import data, direction, gradient_of, mlp, softmax, solved, space_of
from scipy.sparse.linalg import cg as scipy_cg

from fallline.core.errors import FalllineError, InvalidTypeError, InvalidValueError
from fallline.curvature import Operator, Space, ggn, hessian
from fallline.objectives import reduced, sam, term
from fallline.second_order import (
    conjugate_gradient,
    levenberg_marquardt,
    newton_cg,
    regularised_newton,
    saddle_free_newton,
)


def matrix(values, seed=0):
    made = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(len(values), len(values), generator=made, dtype=torch.float64)).Q
    a = q * torch.as_tensor(values, dtype=torch.float64) @ q.T
    return a, Operator(Space({"x": (len(values),)}, torch.float64), lambda v: v @ a)


def vector(n, seed=1):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("k", [1, 4, 9])
def test_iterates_are_those_of_scipy(k):
    a, operator = matrix(np.linspace(1, 30, 20))
    b = vector(20)
    expected = scipy_cg(a.numpy(), b.numpy(), rtol=0, maxiter=k)[0]
    found = conjugate_gradient(operator, b, tol=0.0, max_products=k)
    np.testing.assert_allclose(found.x.numpy(), expected, rtol=1e-9, atol=1e-12)
    assert found.num_products == k == operator.num_products
    assert not found.converged
    assert found.residual == pytest.approx(float((b - a @ found.x).norm()))


def test_start_damping_and_preconditioner():
    a, operator = matrix(np.logspace(0, 4, 20))
    b = vector(20)
    exact = torch.linalg.solve(a + 0.5 * torch.eye(20, dtype=torch.float64), b)
    near = conjugate_gradient(operator, b, damping=0.5, start=exact, tol=1e-10)
    assert (near.num_products, near.converged) == (1, True)
    inverse = torch.linalg.inv(a)
    found = conjugate_gradient(operator, b, damping=0.5, tol=1e-10, preconditioner=lambda v: inverse @ v)
    plain = conjugate_gradient(operator, b, damping=0.5, tol=1e-10)
    torch.testing.assert_close(found.x, exact)
    assert found.num_products < 0.6 * plain.num_products


def test_negative_curvature_ends_it_and_says_where():
    a, operator = matrix([3.0, 2.0, 1.0, -1.0])
    found = conjugate_gradient(operator, vector(4))
    assert found.negative is not None
    assert found.negative @ a @ found.negative <= 0
    assert not found.converged


def test_zero_needs_no_product():
    _, operator = matrix([1.0, 2.0])
    found = conjugate_gradient(operator, torch.zeros(2, dtype=torch.float64))
    assert (found.num_products, found.converged) == (0, True)


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_newton_cg_solves_the_damped_system(curvature):
    oracle, batch = softmax(mlp()), data(30)
    operator = (hessian if curvature == "hessian" else ggn)(oracle, batch)
    found = direction(newton_cg(oracle, 2.0, curvature=curvature, tol=1e-12), batch)
    torch.testing.assert_close(found, solved(operator, gradient_of(oracle, batch), 2.0))


def test_the_step_always_leads_down():
    for seed in range(5):
        oracle, batch = softmax(mlp()), data(30, seed=seed)
        assert direction(newton_cg(oracle), batch) @ gradient_of(oracle, batch) > 0


def test_a_warm_start_takes_fewer_products(monkeypatch):
    from fallline.second_order import newton

    used = []
    monkeypatch.setattr(
        newton, "conjugate_gradient", lambda *a, **k: used.append(found := conjugate_gradient(*a, **k)) or found
    )
    oracle = softmax(mlp())
    for warm in (0.0, 1.0):
        solver = newton_cg(oracle, 0.1, curvature="gauss_newton", tol=1e-6, warm_start=warm)
        for _ in range(2):
            direction(solver, data(30), statistics=True)
    assert used[3].num_products == 1 < used[1].num_products


def test_damping_rises_at_negative_curvature():
    oracle, batch = softmax(mlp()), data(30)
    solver = newton_cg(oracle, levenberg_marquardt(1e-6), tol=1e-12)
    assert torch.linalg.eigvalsh(hessian(oracle, batch).dense())[0] < -1e-3
    solver.backward(batch)
    assert solver.damping == pytest.approx(1.5e-6)


def test_regularised_newton_damps_by_the_gradient():
    oracle, batch = softmax(mlp()), data(30)
    g = gradient_of(oracle, batch)
    expected = solved(hessian(oracle, batch), g, float((20 * g.norm()).sqrt()))
    torch.testing.assert_close(direction(regularised_newton(oracle, 20.0, tol=1e-12), batch), expected)


def test_saddle_free_is_the_absolute_matrix():
    oracle, batch = softmax(mlp()), data(30)
    values, vectors = torch.linalg.eigh(hessian(oracle, batch).dense())
    g = gradient_of(oracle, batch)
    expected = vectors @ ((vectors.T @ g) / (values.abs() + 0.01))
    torch.testing.assert_close(direction(saddle_free_newton(oracle, 0.01), batch), expected)


def test_with_a_rank_the_rest_is_divided_by_the_smallest_size_found():
    oracle, batch = softmax(mlp()), data(30)
    values, vectors = torch.linalg.eigh(hessian(oracle, batch).dense())
    g = vectors.T @ gradient_of(oracle, batch)
    order = values.abs().argsort(descending=True)
    sizes = values.abs()[order].clamp(min=float(values.abs()[order][5]))
    expected = vectors[:, order] @ (g[order] / (sizes + 0.01))
    found = direction(saddle_free_newton(oracle, 0.01, rank=6), batch)
    assert (found - expected).norm() < 1e-3 * expected.norm()


def test_errors_say_what_to_do():
    oracle = softmax(mlp())
    _, operator = matrix([1.0, 2.0])
    with pytest.raises(InvalidValueError, match=r"shape \(3,\).*Expected \(2,\)"):
        conjugate_gradient(operator, torch.zeros(3))
    with pytest.raises(InvalidValueError, match=r"tol=-1"):
        conjugate_gradient(operator, torch.zeros(2), tol=-1)
    with pytest.raises(FalllineError, match=r"'hesian'.*hessian"):
        newton_cg(oracle, curvature="hesian")
    with pytest.raises(InvalidValueError, match=r"max_products=0"):
        newton_cg(oracle, max_products=0)
    with pytest.raises(InvalidValueError, match=r"warm_start is 2"):
        newton_cg(oracle, warm_start=2.0)
    with pytest.raises(InvalidTypeError, match=r"newton_cg differentiates.*Ascent"):
        newton_cg(sam(oracle))
    with pytest.raises(InvalidTypeError, match=r"newton_cg\(\) got an objective"):
        newton_cg(sam(oracle), curvature="gauss_newton")
    with pytest.raises(InvalidValueError, match=r"smoothness is 0.*above 0"):
        regularised_newton(oracle, 0.0)
    with pytest.raises(InvalidValueError, match=r"rank=99.*1 to 51 pairs"):
        saddle_free_newton(oracle, rank=99)
    with pytest.raises(InvalidValueError, match=r"2550 parameters and no rank.*rank=20"):
        saddle_free_newton(softmax(torch.nn.Linear(50, 50)))
    assert space_of(oracle).dim == 51


def test_an_objective_that_changes_the_loss_can_be_inside():
    inner = reduced(softmax(mlp()), lambda losses: term(losses, t=1.0))
    batch = data(30)
    expected = solved(hessian(inner, batch), gradient_of(inner, batch), 3.0)
    torch.testing.assert_close(direction(newton_cg(inner, 3.0, tol=1e-12), batch), expected)
    values, vectors = torch.linalg.eigh(hessian(inner, batch).dense())
    expected = vectors @ ((vectors.T @ gradient_of(inner, batch)) / (values.abs() + 0.01))
    torch.testing.assert_close(direction(saddle_free_newton(inner, 0.01), batch), expected)
