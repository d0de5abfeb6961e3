"""Gradient noise: statistics against the matrix of all gradients, estimators against planted noise, errors that hold."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fallline.core.errors import FalllineError
from fallline.core.oracle import of_module
from fallline.curvature import (
    covariance_spectrum,
    critical_batch_size,
    eigsh,
    example_gradients,
    gradient_covariance,
    gradient_statistics,
    hessian,
    identity,
    noise_scale,
    per_example_gradients,
    tail_index,
    two_batch_noise_scale,
)


def planted(n, dim=30, noise=2.0, seed=0):
    """Examples whose gradients are G + noise: a linear loss of one output. tr Sigma / |G|^2 = dim noise^2 / dim."""
    model = nn.Linear(dim, 1, bias=False).double()
    x = 1 + noise * torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return of_module(model, lambda z, y: z[:, 0]), (x, torch.zeros(n))


def test_per_example_gradients_are_the_rows_of_the_operator(oracle, batch):
    found = per_example_gradients(oracle, batch)
    flat = torch.cat([g.flatten(1) for g in found.values()], 1)
    torch.testing.assert_close(flat, example_gradients(oracle, batch).dense())


def test_statistics_are_those_of_the_matrix_whatever_the_chunks(oracle, batch, two_batches):
    rows = example_gradients(oracle, batch).dense()
    for data, chunk in ((batch, 32), (batch, 5), (two_batches, 4)):
        found = gradient_statistics(oracle, data, chunk=chunk)
        variance = torch.cat([v.flatten() for v in found.variance.values()])
        mean = torch.cat([m.flatten() for m in found.mean.values()])
        torch.testing.assert_close(mean, rows.mean(0))
        torch.testing.assert_close(variance, rows.var(0))
        assert found.num_examples == 24
        assert found.trace == pytest.approx(float(rows.var(0).sum()))
        assert found.square_norm == pytest.approx(float(rows.mean(0).square().sum() - rows.var(0).sum() / 24))
        assert found.noise_scale == pytest.approx(found.trace / found.square_norm)
        cross = rows @ rows.T
        assert found.m_coherence == pytest.approx(float(24 * cross.mean() / cross.diagonal().mean()))
        ratio = torch.cat([s.flatten() for s in found.signal_to_noise().values()])
        torch.testing.assert_close(ratio, mean.abs() / rows.std(0))
        assert list(found.by_tensor()) == list(oracle.params)


def test_planted_noise_is_found():
    oracle, data = planted(1024)
    truth = 4.0
    all_of_it = gradient_statistics(oracle, data).noise_scale
    assert all_of_it == pytest.approx(truth, rel=0.06)
    drawn = noise_scale(oracle, data, small_size=8, big_size=128, num_rounds=10)
    low, high = drawn.interval()
    assert low < all_of_it < high  # what is drawn from are these examples
    assert drawn.value == pytest.approx(truth, rel=0.2)
    assert gradient_statistics(oracle, data).by_tensor()["weight"] == pytest.approx(truth, rel=0.06)


def test_two_batch_estimators_are_unbiased_and_their_intervals_hold():
    hits, traces, squares = 0, [], []
    dim, noise, b, big = 20, 3.0, 2, 16
    for seed in range(60):
        made = torch.Generator().manual_seed(seed)
        g = 1 + noise * torch.randn(25, big // b, b, dim, generator=made, dtype=torch.float64)
        small = g.mean(2).square().sum(-1).mean(1)
        large = g.mean((1, 2)).square().sum(-1)
        found = two_batch_noise_scale(small, large, b, big)
        low, high = found.interval()
        hits += low <= noise**2 <= high
        traces.append(found.trace)
        squares.append(found.square_norm)
    assert hits >= 52  # of 60 at 95 %
    assert sum(traces) / 60 == pytest.approx(dim * noise**2, rel=0.02)
    assert sum(squares) / 60 == pytest.approx(dim, rel=0.05)


def test_no_gradient_and_no_noise():
    noiseless, data = planted(8, noise=0.0)
    found = gradient_statistics(noiseless, data)
    assert found.noise_scale == 0
    assert found.m_coherence == pytest.approx(8)
    assert found.signal_to_noise()["weight"].isinf().all()
    model = nn.Linear(4, 1, bias=False).double()
    opposed = of_module(model, lambda z, y: z[:, 0])
    x = torch.cat([torch.eye(4), -torch.eye(4)]).double()
    found = gradient_statistics(opposed, (x, torch.zeros(8)))
    assert found.noise_scale == math.inf
    assert not found.signal_to_noise()["weight"].any()
    assert two_batch_noise_scale([1.0, 1.0], [0.1, 0.1], 2, 8).value == math.inf


def test_spectrum_of_the_covariance(oracle, batch, two_batches):
    dense = torch.linalg.eigvalsh(gradient_covariance(oracle, batch).dense())
    for data in (batch, two_batches):
        torch.testing.assert_close(covariance_spectrum(oracle, data, chunk=7), dense[-23:], rtol=1e-8, atol=1e-12)
    top = eigsh(gradient_covariance(oracle, batch), 3, tol=1e-8).values
    torch.testing.assert_close(top, dense.flip(0)[:3])


def test_critical_batch_size_from_dense_matrices(oracle, batch):
    h, g = hessian(oracle, batch), example_gradients(oracle, batch)
    sigma, mean = g.dense().T.cov(), g.dense().mean(0)
    above = float((h.dense() @ sigma).trace())
    below = float(mean @ h.dense() @ mean) - above / 24
    found = critical_batch_size(h, g, num_probes=400)
    assert abs(found.trace - above) < 0.15 * above
    assert found.square_norm == pytest.approx(below, rel=0.15)


def test_critical_batch_size_is_the_noise_scale_where_all_curvatures_are_equal():
    oracle, data = planted(512)
    g = example_gradients(oracle, data)
    found = critical_batch_size(3 * identity(g.domain), g, num_probes=60)
    assert abs(found.value - gradient_statistics(oracle, data).noise_scale) < 3 * found.error < 0.5


def test_tail_index_of_known_laws():
    made = torch.Generator().manual_seed(0)
    normal = torch.randn(1600, 50, generator=made, dtype=torch.float64)
    cauchy = normal / torch.randn(1600, 50, generator=made, dtype=torch.float64)
    assert tail_index(normal) == pytest.approx(2, rel=0.05)
    assert tail_index(cauchy) == pytest.approx(1, rel=0.05)
    assert tail_index(normal[:, 0]) == pytest.approx(2, rel=0.3)


def test_models_in_training_mode_are_measured_in_evaluation_mode():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)).train()
    x, y = torch.randn(16, 4), torch.randint(3, (16,))
    oracle = of_module(model, F.cross_entropy)
    once, again = (gradient_statistics(oracle, (x, y)).trace for _ in range(2))
    assert once == again
    assert model.training


def test_mistakes_have_answers(oracle, batch):
    one = (batch[0][:1], batch[1][:1])
    h, g = hessian(oracle, batch), example_gradients(oracle, batch)
    cases = [
        (lambda: gradient_statistics(oracle, one), "got 1 example"),
        (lambda: two_batch_noise_scale([1.0], [1.0], 1, 2), "1 and 1 squared norms"),
        (lambda: two_batch_noise_scale([1.0, 2.0], [1.0, 2.0], 4, 4), "batches of 4 and 4"),
        (lambda: noise_scale(oracle, batch, small_size=5, big_size=12), "5 and 12 from 24 examples"),
        (lambda: noise_scale(oracle, batch), "8 and 128 from 24"),
        (lambda: critical_batch_size(h, g, num_probes=1), "24 examples and 1 probes"),
        (lambda: tail_index(torch.zeros(3)), "got 3 samples"),
    ]
    for make, text in cases:
        with pytest.raises(FalllineError, match=text):
            make()
