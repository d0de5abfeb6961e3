"""Eigenvalues against dense ones and scipy's, bounds that hold, warm starts, restarts; traces, diagonals and densities."""

import numpy as np
import pytest
import torch

from fallline.core.errors import FalllineError
from fallline.curvature import (
    Operator,
    Space,
    condition_number,
    eigsh,
    estimate_diagonal,
    frobenius_norm,
    ggn,
    hessian,
    identity,
    jacobian,
    sharpness,
    spectral_density,
    trace,
)


def matrix(a):
    """A dense symmetric matrix as an operator."""
    return Operator(Space({"x": (len(a),)}, a.dtype), lambda v: v @ a)


def with_spectrum(values, seed=0, dtype=torch.float64):
    """A symmetric matrix with these eigenvalues."""
    drawn = torch.randn(len(values), len(values), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q = torch.linalg.qr(drawn).Q
    return (q * values.double() @ q.T).to(dtype)


BULK = torch.cat([torch.linspace(-0.3, 1, 190), torch.tensor([2.0, 3.0, 4.0, 5.5, 6.0, 8.0, 9.0, 9.5, 12.0, 20.0])])


@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude", "both"])
def test_ends_of_the_spectrum_equal_dense_and_scipy(oracle, batch, exact, which):
    from scipy.sparse.linalg import eigsh as arpack

    h, k = hessian(oracle, batch), 3
    found = eigsh(h, k, which=which, tol=1e-9)
    name = {"largest": "LA", "smallest": "SA", "magnitude": "LM", "both": "BE"}[which]
    expected = arpack(exact.numpy(), k if which != "both" else 2 * k, which=name, return_eigenvectors=False)
    np.testing.assert_allclose(found.values, sorted(expected, reverse=True), atol=1e-9)
    assert found.converged
    residuals = (h @ found.vectors - found.vectors * found.values).norm(dim=0)
    assert (residuals <= found.bounds + 1e-12).all()
    gram = found.vectors.T @ found.vectors
    torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-3, 1e-5])
def test_bounds_hold_and_tell_the_accuracy(dtype, tol):
    for seed in range(3):
        found = eigsh(matrix(with_spectrum(BULK, seed, dtype)), 4, tol=tol)
        away = (found.values[:, None] - BULK.double()).abs()
        assert (away.min(1).values <= found.bounds).all()  # some eigenvalue is there
        if tol < 0.1:  # and it is the one that was asked for
            errors = (found.values - BULK.double().flip(0)[:4]).abs()
            assert (errors <= found.bounds).all()
        assert (found.bounds <= max(tol, 1e-4) * found.values).all()


def test_a_budget_that_is_too_small_is_admitted():
    found = eigsh(matrix(with_spectrum(BULK)), 4, tol=1e-8, max_products=8)
    assert not found.converged
    assert found.num_products == 8
    assert ((found.values[0] - 20).abs() <= found.bounds[0]).all()


def test_restarts_need_little_memory_and_reach_the_same():
    a = matrix(with_spectrum(BULK))
    short, long = eigsh(a, 5, tol=1e-7, max_basis=14), eigsh(a, 5, tol=1e-7)
    torch.testing.assert_close(short.values, long.values)
    assert short.converged
    assert short.num_products > long.num_products


def test_warm_starts_take_fewer_products():
    before, noise = with_spectrum(BULK), with_spectrum(torch.linspace(-0.01, 0.01, 200), 5)
    after = matrix(before + noise)
    old = eigsh(matrix(before), 5, tol=1e-6)
    warm, cold = eigsh(after, 5, start=old), eigsh(after, 5)
    torch.testing.assert_close(warm.values, torch.linalg.eigvalsh(before + noise).flip(0)[:5], rtol=1e-5, atol=0)
    assert warm.num_products < cold.num_products / 2
    one = eigsh(after, 1, start=old.vectors[:, :1])
    assert one.num_products < eigsh(after, 1).num_products / 2


def test_a_start_inside_an_invariant_space_does_not_end_there():
    a = matrix(torch.diag(torch.arange(1.0, 9).double()))
    start = torch.eye(8, dtype=torch.float64)[:, :2]
    torch.testing.assert_close(eigsh(a, 4, start=start, tol=1e-8).values, torch.tensor([8.0, 7, 6, 5]).double())


def test_special_matrices():
    space = Space({"x": (6,)}, torch.float64)
    torch.testing.assert_close(eigsh(identity(space), 3).values, torch.ones(3).double())
    assert not eigsh(0 * identity(space), 2).values.any()
    one = eigsh(matrix(torch.full((1, 1), -3.0).double()))
    assert one.values.tolist() == [-3.0]
    assert sharpness(matrix(with_spectrum(BULK))) == pytest.approx(20, rel=1e-5)


def test_named_vectors_and_shares(oracle, batch, exact):
    found = eigsh(hessian(oracle, batch), 2, tol=1e-9)
    assert list(found.named(1)) == list(oracle.params)
    assert found.share(found.vectors[:, 1]) == pytest.approx(1)
    assert found.share(torch.linalg.eigh(exact).eigenvectors[:, 0]) == pytest.approx(0, abs=1e-12)


def test_condition_number_lies_in_its_interval():
    values = torch.linspace(0.5, 20, 60)
    found = condition_number(matrix(with_spectrum(values)))
    assert found.low <= 40 <= found.high < 41
    singular = condition_number(matrix(with_spectrum(torch.linspace(0, 20, 60))))
    assert singular.high == float("inf")
    with pytest.raises(FalllineError, match=r"eigenvalues from -1 to 20"):
        condition_number(matrix(with_spectrum(torch.linspace(-1, 20, 60))))


@pytest.mark.parametrize("method", ["hutch++", "hutchinson"])
def test_trace_intervals_hold(method):
    a = with_spectrum(BULK)
    truth, hits = float(BULK.double().sum()), 0
    for seed in range(20):
        low, high = trace(matrix(a), method=method, rtol=1e-9, max_products=45, seed=seed).interval()
        hits += low <= truth <= high
    assert hits >= 16  # of 20 at 95 %


def test_hutchpp_beats_hutchinson_where_few_eigenvalues_are_large(oracle, batch):
    g = ggn(oracle, batch)
    plus, plain = (trace(g, method=m, rtol=1e-9, max_products=45) for m in ("hutch++", "hutchinson"))
    assert plus.error < plain.error / 5
    assert plus.num_products == plain.num_products == 45


def test_trace_stops_on_its_interval_and_is_exact_where_that_is_cheaper(exact, oracle, batch):
    g = ggn(oracle, batch)
    assert trace(g, rtol=0.2, method="hutchinson", max_products=500).num_products < 100
    whole = trace(g, max_products=300)
    assert whole.error == 0
    assert whole.interval() == (whole.value, whole.value)
    assert whole.value == pytest.approx(float(g.dense().trace()), rel=1e-12)
    assert whole.num_products == 66


def test_frobenius_norm_and_diagonal():
    a = with_spectrum(BULK)
    norm = frobenius_norm(matrix(a), num_products=400)
    assert abs(norm.value - float(a.norm())) < 3 * norm.error
    found = estimate_diagonal(matrix(a), num_products=400)
    scores = (found.values - a.diagonal()) / found.errors
    assert 0.8 < float(scores.square().mean()) < 1.2
    assert found.named()["x"].shape == (200,)
    signs = estimate_diagonal(matrix(torch.diag(BULK.double())), num_products=6)
    torch.testing.assert_close(signs.values, BULK.double())
    assert float(signs.errors.max()) < 1e-12


def test_density_has_the_moments_and_the_mass_of_the_spectrum():
    a = matrix(with_spectrum(BULK))
    found = spectral_density(a, num_probes=30, num_steps=30)
    for power in (0, 1, 2, 3):
        moment = found.moment(power)
        assert abs(moment.value - float((BULK.double() ** power).mean())) <= 3.5 * moment.error + 1e-12
    outside = found.fraction(1.5, 30)
    assert abs(outside.value - 10 / 200) <= 3 * outside.error
    grid = found.grid(2000)
    assert float(torch.trapezoid(found.on(grid), grid)) == pytest.approx(1, abs=1e-6)
    logs = found.trace_of(lambda x: (x + 1).log())
    assert abs(logs.value - float((BULK.double() + 1).log().sum())) <= 3.5 * logs.error
    assert found.num_products == 900


def test_quadrature_is_exact_for_low_powers():
    a = with_spectrum(BULK)
    found = spectral_density(matrix(a), num_probes=1, num_steps=5)
    random = torch.Generator().manual_seed(0)
    v = torch.randint(0, 2, (200,), generator=random, dtype=torch.int8).double() * 2 - 1
    for power in range(10):
        expected = v @ torch.linalg.matrix_power(a, power) @ v / 200
        torch.testing.assert_close((found.weights * found.nodes**power).sum(), expected)


def test_mistakes_have_answers(oracle, batch):
    h, j = hessian(oracle, batch), jacobian(oracle, batch)
    cases = [
        (lambda: eigsh(j), r"eigsh\(\) got an operator of 72 x 66 that is not known to be symmetric"),
        (lambda: eigsh(h @ h), "not known to be symmetric"),
        (lambda: trace(j), r"trace\(\) got"),
        (lambda: spectral_density(j), r"spectral_density\(\) got"),
        (lambda: eigsh(h, 0), "k=0"),
        (lambda: eigsh(h, 40, which="both"), "Expected 1 to 33"),
        (lambda: eigsh(h, which="LA"), "Unknown end of the spectrum 'LA'"),
        (lambda: eigsh(h, tol=0), "tol=0"),
        (lambda: eigsh(h, 3, max_products=2), "max_products=2"),
        (lambda: eigsh(h, 3, max_basis=5), "max_basis=5 for 3 pairs"),
        (lambda: eigsh(h, start=torch.zeros(3, 1)), r"start vectors of shape \(3, 1\)"),
        (lambda: trace(h, method="xtrace"), "Unknown method for the trace"),
        (lambda: trace(h, max_products=3), "budget of 3 products"),
        (lambda: spectral_density(h, num_probes=0), "num_probes=0"),
    ]
    for make, text in cases:
        with pytest.raises(FalllineError, match=text):
            make()
