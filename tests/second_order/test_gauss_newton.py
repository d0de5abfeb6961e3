"""Exact Gauss-Newton steps against the matrix formed, for layers that are and are not linear, and any loss of the outputs."""

import pytest
import torch
import torch.nn.functional as F
from curved import conv, data, direction, drawn, gradient_of, mlp, softmax, solved
from torch import nn

from fallline.core.errors import InvalidTypeError, InvalidValueError
from fallline.core.oracle import of_loss, of_module
from fallline.curvature import ggn, jacobian
from fallline.objectives import reduced, sam
from fallline.second_order import egn, levenberg_marquardt
from fallline.second_order.dual import BatchJacobian
from fallline.second_order.layers import draws, output_derivatives, roots


class Shared(nn.Module):
    """One layer used twice, and a head that shares its weight with nothing."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.scale = nn.Linear(4, 4), nn.Linear(4, 3, bias=False), nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * self.head(self.body(torch.tanh(self.body(x))))


class Tied(nn.Module):
    """Encoder and decoder with one weight."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(3, 3), nn.Linear(3, 3)
        self.up.weight = self.down.weight

    def forward(self, x):
        return self.up(torch.tanh(self.down(x)))


CASES = {
    "mlp": (mlp, data()),
    "conv": (conv, data(shape=(1, 4, 4))),
    "shared": (lambda: drawn(Shared()), data()),
    "tied": (lambda: drawn(Tied()), data(shape=(3,))),
    "positions": (
        lambda: drawn(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6, 3))),
        data(shape=(2, 2)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_step_is_that_of_the_matrix(name):
    model, batch = CASES[name]
    oracle = softmax(model())
    expected = solved(ggn(oracle, batch), gradient_of(oracle, batch), 1e-3)
    torch.testing.assert_close(direction(egn(oracle, 1e-3), batch), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_gram_and_pull_are_those_of_the_jacobian(name):
    model, batch = CASES[name]
    oracle = softmax(model())
    j = jacobian(oracle, batch).dense()
    found = BatchJacobian(oracle, oracle.params, batch, statistics=False)
    torch.testing.assert_close(found.gram(), j @ j.T)
    y = torch.linspace(-1, 1, len(j), dtype=torch.float64)
    torch.testing.assert_close(torch.cat([x.flatten() for x in found.pull(y).values()]), j.T @ y)


LOSSES = {
    "mean_squares": (F.mse_loss, torch.linspace(-1, 1, 30).double().view(10, 3)),
    "per_example": (lambda z, y: F.cross_entropy(z, y, reduction="none"), data()[1]),
    "huber": (F.huber_loss, torch.linspace(-3, 3, 30).double().view(10, 3)),
    "smoothed": (lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1), data()[1]),
}


@pytest.mark.parametrize("name", LOSSES)
def test_any_loss_of_the_outputs(name):
    criterion, targets = LOSSES[name]
    batch = data()[0], targets
    oracle = of_module(mlp(), criterion)
    expected = solved(ggn(oracle, batch), gradient_of(oracle, batch), 0.1)
    torch.testing.assert_close(direction(egn(oracle, 0.1), batch), expected, rtol=1e-8, atol=1e-10)


def test_second_derivatives_of_softmax():
    oracle, batch = softmax(mlp()), data()
    z = oracle.outputs(oracle.params, batch)
    losses, slopes, second = output_derivatives(oracle, z, batch)
    p = z.detach().softmax(1)
    torch.testing.assert_close(losses, F.cross_entropy(z.detach(), batch[1], reduction="none"))
    torch.testing.assert_close(slopes, p - F.one_hot(batch[1], 3))
    torch.testing.assert_close(second, torch.diag_embed(p) - p[:, :, None] * p[:, None])


def test_a_loss_that_is_linear_in_the_outputs_leaves_damped_descent():
    oracle = of_loss(mlp(), lambda model, batch: model(batch[0]).sum(1))
    torch.testing.assert_close(direction(egn(oracle, 0.5), data()), 2 * gradient_of(oracle, data()))


def test_dropout_masks_are_one_for_step_and_gradient():
    def oracle():
        torch.manual_seed(3)
        return softmax(drawn(nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 3))).train())

    torch.manual_seed(3)
    far = 1e8 * direction(egn(oracle(), 1e8), data())
    torch.testing.assert_close(far, gradient_of(oracle(), data()), rtol=1e-5, atol=1e-7)


def test_adaptive_damping_follows_the_ratio_by_hand():
    oracle, batch = softmax(mlp()), data()
    solver = egn(oracle, levenberg_marquardt(0.5, factor=0.5))
    value, d = solver.value_and_grad(oracle.params, batch)
    assert solver.damping == 0.5  # not the call of a step
    d, g = torch.cat([x.flatten() for x in d.values()]), gradient_of(oracle, batch)
    there = oracle.loss({n: p - x for (n, p), x in zip(oracle.params.items(), _split(d, oracle), strict=True)}, batch)
    ratio = (value - there) / (g @ d - ggn(oracle, batch).quadratic(d) / 2)
    solver.backward(batch)
    assert solver.damping == (0.25 if ratio > 0.75 else 0.5 if ratio >= 0.25 else 1.0)
    assert ratio > 0.75


def _split(d, oracle):
    parts = d.split([p.numel() for p in oracle.params.values()])
    return [x.view_as(p) for x, p in zip(parts, oracle.params.values(), strict=True)]


@pytest.mark.parametrize(("ratio", "expected"), [(0.9, 2.0), (0.5, 3.0), (0.1, 4.5), (-1.0, 4.5), (float("nan"), 4.5)])
def test_the_rule_of_damping(ratio, expected):
    rule = levenberg_marquardt(3.0)
    found = rule.next(torch.tensor(3.0).double(), torch.tensor(ratio).double())
    assert float(found) == pytest.approx(expected)
    assert float(rule.next(torch.tensor(1e-10).double(), torch.tensor(0.9))) == 1e-10


def test_errors_say_what_to_do():
    oracle = softmax(mlp())
    with pytest.raises(InvalidValueError, match=r"damping=0.*damping=1e-6"):
        egn(oracle, 0.0)
    with pytest.raises(InvalidValueError, match=r"damping is -1.*at least 0"):
        egn(oracle, -1.0)
    with pytest.raises(InvalidValueError, match=r"factor=1.5.*between 0 and 1"):
        levenberg_marquardt(1.0, factor=1.5)
    for objective in (reduced(oracle, torch.mean), sam(oracle)):
        with pytest.raises(InvalidTypeError, match=r"egn\(\) got an objective.*of_module"):
            egn(objective)
    normalised = softmax(drawn(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))).train())
    with pytest.raises(InvalidValueError, match=r"batch normalisation '1'.*model.eval"):
        direction(egn(normalised), data())
    noisy = softmax(drawn(nn.Sequential(nn.LayerNorm(4), nn.Dropout(0.5), nn.Linear(4, 3))).train())
    with pytest.raises(InvalidValueError, match=r"dropout '1' is on.*'0.weight'.*model.eval"):
        direction(egn(noisy), data())


def test_batch_normalisation_in_evaluation_mode():
    model = drawn(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))).eval()
    oracle = softmax(model)
    expected = solved(ggn(oracle, data()), gradient_of(oracle, data()), 0.01)
    torch.testing.assert_close(direction(egn(oracle, 0.01), data()), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_samples_solve_with_the_drawn_matrix(name):
    model, batch = CASES[name]
    oracle = softmax(model())
    j = jacobian(oracle, batch).dense()
    z = oracle.outputs(oracle.params, batch)
    v = draws(output_derivatives(oracle, z, batch)[2], 2, 5 * 1_000_003)
    rows = torch.stack([torch.block_diag(*x[:, None]) @ j for x in v]).flatten(0, 1)
    g = gradient_of(oracle, batch)
    expected = torch.linalg.solve(rows.T @ rows / (2 * len(z)) + 0.01 * torch.eye(len(g), dtype=g.dtype), g)
    solver = egn(oracle, 0.01, num_samples=2, seed=5)
    torch.testing.assert_close(direction(solver, batch, statistics=True), expected)
    assert not torch.allclose(direction(solver, batch), expected)  # the next step draws anew


def test_draws_have_the_second_derivative_as_their_mean():
    oracle, batch = softmax(mlp()), data()
    second = output_derivatives(oracle, oracle.outputs(oracle.params, batch), batch)[2]
    v = draws(second, 4000, 0)
    assert (torch.einsum("sni,snj->nij", v, v) / 4000 - second).abs().max() < 0.02
    with pytest.raises(InvalidValueError, match=r"num_samples=0.*or None"):
        egn(oracle, num_samples=0)


def test_roots_of_what_is_nearly_zero():
    """In float32 LAPACK failed to decompose such second derivatives, of a model that is sure of its answers."""
    p = (
        torch.zeros(64, 10)
        .index_fill_(1, torch.tensor([0]), 30.0)
        .add_(20 * torch.randn(64, 10, generator=torch.Generator().manual_seed(0)))
    )
    p = p.softmax(1)
    second = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    second = torch.cat([second, 1e-38 * second, 0 * second])
    found = roots(second)
    torch.testing.assert_close(found @ found, second, rtol=1e-5, atol=1e-7)
