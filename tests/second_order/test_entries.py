"""Solvers by name: what is declared beside each, what a direction takes, and second derivatives that are diagonal."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from curved import SOLVERS, data, direction, drawn, mlp, softmax
from torch import nn

from fallline import second_order
from fallline.core.errors import FalllineError, InvalidTypeError, InvalidValueError
from fallline.core.method import METHODS
from fallline.core.oracle import of_module
from fallline.schedules import cosine
from fallline.second_order import egn, kfac, layers, levenberg_marquardt
from fallline.second_order.entries import STEP_METHODS
from fallline.second_order.layers import columns, draws, output_derivatives, roots


def wide(num_out=80, examples=6):
    """A model with many outputs under squared loss, and a batch."""
    model = drawn(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, num_out)))
    made = torch.Generator().manual_seed(3)
    return of_module(model, F.mse_loss), tuple(
        torch.randn(examples, n, generator=made, dtype=torch.float64) for n in (4, num_out)
    )


def test_every_solver_is_declared():
    assert set(SOLVERS) - {"egn_sampled"} <= set(STEP_METHODS)
    assert set(STEP_METHODS) <= set(second_order.__all__)
    assert not set(STEP_METHODS) & set(METHODS)


@pytest.mark.parametrize("name", STEP_METHODS)
def test_a_declaration_has_all_that_a_method_has(name):
    entry = STEP_METHODS[name]
    assert entry.name == name
    assert entry.family == "second_order"
    assert "lr" in entry.space
    assert set(entry.space) <= set(entry.hypers)
    assert entry.summary
    assert entry.card.source
    for hyper, r in entry.space.items():
        assert r.low in entry.domain(hyper)
        assert r.high in entry.domain(hyper)
        assert entry.defaults[hyper] in entry.domain(hyper)
    assert entry.claims, "it says what its paper says"
    assert entry.state_bytes() >= 4
    assert copy.deepcopy(entry) is pickle.loads(pickle.dumps(entry)) is entry
    chain = entry(lr=0.5)
    assert chain.rebuild({"lr": 0.25}).hypers["lr"] == 0.25


def test_values_are_checked():
    with pytest.raises(InvalidValueError, match=r"kfac got damping=0.*\(0, inf\)"):
        STEP_METHODS["kfac"](damping=0.0)
    with pytest.raises(FalllineError, match="Did you mean damping"):
        STEP_METHODS["kfac"].solver(softmax(mlp()), dampin=0.1)
    with pytest.raises(InvalidTypeError, match="damping as a schedule"):
        STEP_METHODS["kfac"].solver(softmax(mlp()), damping=cosine(10))
    with pytest.raises(FalllineError, match="kind of kfac 'none'"):
        STEP_METHODS["kfac"](kind="none")


def test_what_is_given_reaches_the_solver():
    solver = STEP_METHODS["kfac"].solver(softmax(mlp()), 3, lr=0.5, damping=0.25, decay=0.5, every=7)
    assert (solver.damping, solver.decay, solver.every, solver.seed) == (0.25, 0.5, 7, 3)
    solver = STEP_METHODS["levenberg_marquardt"].solver(softmax(mlp()), damping=2.0)
    assert solver.rule == levenberg_marquardt(2.0)


def test_state_is_counted_as_it_is():
    """Of a 32 x 32 matrix K-FAC keeps two factors and two inverses, the chain a momentum: five floats."""
    assert STEP_METHODS["kfac"].state_bytes() == 20
    assert STEP_METHODS["egn"].state_bytes() == 4
    assert STEP_METHODS["stochastic_lbfgs"].state_bytes() == 4 + 4 * 3  # a pair and the mean of iterates


@pytest.mark.parametrize(("solver", "counts"), [
    (lambda o: kfac(o, kind="mc"), [2, 2]),
    (lambda o: kfac(o, kind="exact"), [4, 4]),  # three outputs
    (lambda o: kfac(o, kind="empirical"), [1, 1]),
    (lambda o: egn(o), [3, 3]),
    (lambda o: egn(o, levenberg_marquardt(1.0)), [4, 4]),
    (lambda o: egn(o, num_samples=1), [2, 2]),
    (lambda o: second_order.tngd(o, num_steps=5), [11, 11]),
    (lambda o: second_order.newton_cg(o, 1.0, tol=0.0, max_products=4), [9, 9]),
    (lambda o: second_order.saddle_free_newton(o, 1.0), [1 + 2 * 51, 1 + 2 * 51]),
    (lambda o: second_order.stochastic_lbfgs(o, every=2), [1, 1, 1, 3, 1, 3]),
])  # fmt: skip
def test_gradient_evaluations_are_counted(solver, counts):
    made = solver(softmax(mlp()))
    found = []
    for _ in counts:
        direction(made, data(), statistics=True)
        found.append(made.gradients)
    assert found == counts


def test_parameters_outside_of_linear_layers_cost_rows():
    model = drawn(nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)))
    solver = egn(softmax(model), num_samples=1)
    direction(solver, data(), statistics=True)
    assert solver.gradients == 2 + 3


def test_second_derivatives_of_squares_are_found_to_be_diagonal(monkeypatch):
    oracle, batch = wide()
    z = oracle.outputs(oracle.params, batch)
    losses, slopes, second = output_derivatives(oracle, z, batch)
    assert second.shape == (6, 80)
    monkeypatch.setattr(layers, "FORMED", 100)
    exact = output_derivatives(oracle, z, batch)
    torch.testing.assert_close(torch.diag_embed(second), exact[2])
    torch.testing.assert_close((losses, slopes), exact[:2])
    torch.testing.assert_close(torch.diag_embed(roots(second)), roots(exact[2]))
    torch.testing.assert_close(columns(second), columns(exact[2]))
    v = draws(second, 2, 0)
    torch.testing.assert_close(v.square(), second.expand(2, 6, 80))


def test_second_derivatives_that_are_not_diagonal_are_formed(monkeypatch):
    oracle, batch = softmax(mlp(80)), data(num_out=80)
    z = oracle.outputs(oracle.params, batch)
    second = output_derivatives(oracle, z, batch)[2]
    p = z.softmax(1).detach()
    torch.testing.assert_close(second, torch.diag_embed(p) - p[:, :, None] * p[:, None])
    monkeypatch.setattr(layers, "LARGEST", 10 * 80 * 80 - 1)
    with pytest.raises(InvalidValueError, match=r"10 x 80 x 80 second derivatives.*not diagonal.*empirical"):
        output_derivatives(oracle, z, batch)


@pytest.mark.parametrize("kind", ["exact", "mc"])
def test_a_diagonal_gives_the_same_factors(kind, monkeypatch):
    oracle, batch = wide()
    short = direction(kfac(oracle, kind=kind), batch)
    monkeypatch.setattr(layers, "FORMED", 100)
    torch.testing.assert_close(short, direction(kfac(oracle, kind=kind), batch))


def test_a_diagonal_gives_the_same_gauss_newton_step(monkeypatch):
    oracle, batch = wide()
    short = direction(egn(oracle, 1e-2), batch)
    monkeypatch.setattr(layers, "FORMED", 100)
    torch.testing.assert_close(short, direction(egn(oracle, 1e-2), batch))


def test_fit_is_exact_where_that_is_small_and_draws_where_it_is_not(monkeypatch):
    oracle, batch = softmax(mlp()), data()
    fits = egn(oracle, 1e-2, num_samples="fit")
    torch.testing.assert_close(direction(fits, batch), direction(egn(oracle, 1e-2), batch), rtol=1e-7, atol=1e-9)
    monkeypatch.setattr(second_order.gauss_newton, "FITS", 29)  # three outputs of ten examples are thirty unknowns
    torch.testing.assert_close(direction(fits, batch), direction(egn(oracle, 1e-2, num_samples=1), batch))
    monkeypatch.undo()
    oracle, batch = wide(num_out=4000)
    solver = egn(oracle, 1e-2, num_samples="fit")
    direction(solver, batch)
    assert solver.gradients == 2048 // 12 + 1
    with pytest.raises(InvalidValueError, match=r"24000 unknowns.*num_samples='fit'"):
        direction(egn(oracle, 1e-2), batch)


def test_a_factor_that_rounding_made_indefinite_has_an_inverse():
    from fallline.second_order.kronecker import _inverse

    a = torch.tensor([[1e8, 1e8], [1e8, 1e8]]) * (1 + 1e-6 * torch.tensor([[-1.0, 1.0], [1.0, -1.0]]))
    found = _inverse(a, torch.tensor(1e-3))
    assert found.isfinite().all()
    assert torch.linalg.eigvalsh(found.double()).max() <= 1.01e3
