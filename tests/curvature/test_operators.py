"""Every operator equals its dense matrix, over one batch and over many; algebra, blocks and scipy's interface agree."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fallline.core.errors import FalllineError
from fallline.core.oracle import of_module
from fallline.curvature import (
    Operator,
    Space,
    diagonal,
    example_gradients,
    fisher,
    ggn,
    gradient,
    gradient_covariance,
    gram,
    hessian,
    identity,
    jacobian,
    ntk,
    outer,
)

TOLERANCE = {"rtol": 1e-10, "atol": 1e-13}


def close(a, b):
    torch.testing.assert_close(a, b, **TOLERANCE)


def stacked(oracle, batch):
    """The Jacobian of the outputs, (examples, outputs, parameters), by torch.func."""
    params = {name: p.detach() for name, p in oracle.params.items()}
    found = torch.func.jacrev(lambda p: oracle.outputs(p, batch))(params)
    return torch.cat([j.flatten(2) for j in found.values()], 2)


def one_by_one(oracle, batch):
    """The gradient of every example, (examples, parameters)."""
    x, y = batch
    rows = [oracle.value_and_grad(oracle.params, (x[i : i + 1], y[i : i + 1]))[1] for i in range(len(x))]
    return torch.stack([torch.cat([g.flatten() for g in row.values()]) for row in rows])


@pytest.mark.parametrize("options", [{}, {"keep": False}, {"route": "forward"}])
def test_hessian_is_that_of_torch_func(oracle, batch, exact, options):
    close(hessian(oracle, batch, **options).dense(), exact)


@pytest.mark.parametrize("keep", [None, True, False])
def test_many_batches_are_the_mean_over_their_examples(oracle, two_batches, exact, keep):
    close(hessian(oracle, two_batches, keep=keep).dense(), exact)
    close(hessian(oracle, iter(two_batches), keep=keep).dense(), exact)


def test_a_single_product_and_a_block_of_them_agree(oracle, batch, exact):
    h = hessian(oracle, batch)
    v = torch.randn(h.shape[1], 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    close(h @ v, exact @ v)
    close(h @ v[:, 0], exact @ v[:, 0])
    named = h @ h.domain.unflatten(v[:, 0])
    assert list(named) == list(oracle.params)
    close(h.domain.flatten(named), exact @ v[:, 0])
    close(h.quadratic(v[:, 0]), v[:, 0] @ exact @ v[:, 0])
    assert h.num_products == 3 + 1 + 1 + 1


def test_large_networks_take_the_products_one_by_one_and_agree(oracle, batch, exact, monkeypatch):
    monkeypatch.setattr("fallline.curvature.graphs.VECTORISED", 0)
    close(hessian(oracle, batch).dense(), exact)
    close(ggn(oracle, batch).dense(), fisher(oracle, batch).dense())


@pytest.mark.parametrize("make", [hessian, ggn, fisher, ntk, gradient_covariance])
@pytest.mark.parametrize("used", [True, False])
def test_operators_stay_where_they_were_built(model, oracle, batch, make, used):
    operator = make(oracle, batch)
    before = make(oracle, batch).dense()
    if used:
        operator.dense()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    close(operator.dense(), before)


def test_some_parameters_give_the_block_of_those(oracle, batch, exact):
    last = {name: p for name, p in oracle.params.items() if name.startswith("2.")}
    close(hessian(oracle, batch, last).dense(), exact[-24:, -24:])


def test_gauss_newton_from_jacobians(oracle, batch, two_batches):
    j = stacked(oracle, batch)
    p = oracle.outputs(oracle.params, batch).detach().softmax(-1)
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    expected = torch.einsum("nca,ncd,ndb->ab", j, middle, j) / len(j)
    for data in (batch, two_batches):
        close(ggn(oracle, data).dense(), expected)
        close(fisher(oracle, data).dense(), expected)


def test_gauss_newton_of_squares_is_the_hessian_where_the_model_is_linear(batch):
    torch.manual_seed(3)
    oracle = of_module(nn.Linear(5, 3).double(), lambda z, y: (z - F.one_hot(y, 3)).square().sum(-1) / 2)
    close(ggn(oracle, batch).dense(), hessian(oracle, batch).dense())
    close(fisher(oracle, batch, likelihood="gaussian").dense(), hessian(oracle, batch).dense())


def test_bernoulli_fisher_is_gauss_newton_of_the_summed_loss(batch):
    torch.manual_seed(3)
    x = batch[0]
    y = (x[:, :2] > 0).double()

    def loss(z, y):
        return F.binary_cross_entropy_with_logits(z, y, reduction="none").sum(-1)

    oracle = of_module(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)).double(), loss)
    close(fisher(oracle, (x, y), likelihood="bernoulli").dense(), ggn(oracle, (x, y)).dense())


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli", "gaussian"])
def test_monte_carlo_fisher_tends_to_the_exact_one(oracle, batch, likelihood):
    drawn = fisher(oracle, batch, kind="mc", likelihood=likelihood, num_samples=1000)
    exact = fisher(oracle, batch, likelihood=likelihood).dense()
    assert (drawn.dense() - exact).norm() < 0.08 * exact.norm()
    few = fisher(oracle, batch, kind="mc", likelihood=likelihood)
    close(few.dense(), few.dense())  # drawn once


def test_monte_carlo_labels_stay_when_graphs_are_made_anew(oracle, two_batches):
    few = fisher(oracle, two_batches, kind="mc")
    close(few.dense(), few.dense())


def test_positions_of_a_sequence_count_as_examples():
    torch.manual_seed(0)
    x, y = torch.randn(4, 6, 3).double(), torch.randint(5, (4, 6))
    oracle = of_module(nn.Linear(3, 5).double(), lambda z, t: F.cross_entropy(z.flatten(0, 1), t.flatten()))
    close(fisher(oracle, (x, y)).dense(), ggn(oracle, (x, y)).dense())
    close(ggn(oracle, (x, y)).dense(), hessian(oracle, (x, y)).dense())
    g = example_gradients(oracle, (x, y))
    assert g.shape == (4, 20)
    close(g.T @ torch.full((4,), 0.25).double(), g.domain.flatten(gradient(oracle, (x, y))))


def test_gradients_of_examples_their_covariance_and_gram_matrix(oracle, batch, two_batches):
    rows = one_by_one(oracle, batch)
    n = len(rows)
    for data in (batch, two_batches):
        g = example_gradients(oracle, data)
        close(g.dense(), rows)
        close(g.T.dense(), rows.T)
        close(fisher(oracle, data, kind="empirical").dense(), rows.T @ rows / n)
        close(gradient_covariance(oracle, data).dense(), rows.T.cov())
        close(gradient_covariance(oracle, data, unbiased=False).dense(), rows.T.cov(correction=0))
        close(gram(oracle, data).dense(), rows @ rows.T / n)
        centred = rows - rows.mean(0)
        close(gram(oracle, data, centred=True).dense(), centred @ centred.T / n)
        flat = g.domain.flatten(gradient(oracle, data))
        close(flat, rows.mean(0))


def test_jacobian_and_tangent_kernel(oracle, batch, two_batches):
    j = stacked(oracle, batch).flatten(0, 1)
    for data in (batch, two_batches):
        close(jacobian(oracle, data).dense(), j)
        close(jacobian(oracle, data).T.dense(), j.T)
        close(ntk(oracle, data).dense(), j @ j.T)
    assert jacobian(oracle, batch).codomain.shapes == {"outputs": (24, 3)}


def test_sums_scalings_compositions(oracle, batch, exact):
    h, g = hessian(oracle, batch), ggn(oracle, batch)
    both = 2 * h - g / 4 + 0.5 * identity(h.domain)
    close(both.dense(), 2 * exact - g.dense() / 4 + 0.5 * torch.eye(len(exact)))
    assert both.is_symmetric
    close((h @ g).dense(), exact @ g.dense())
    close((h @ g).T.dense(), g.dense() @ exact)
    assert not (h @ g).is_symmetric
    assert not ((h @ g) + h).is_symmetric
    close(((h @ g) * 3 + h).T.dense(), 3 * g.dense() @ exact + exact)
    assert (h @ h).symmetric().is_symmetric
    slope = gradient(oracle, batch)
    flat = h.domain.flatten(slope)
    close(outer(slope).dense(), torch.outer(flat, flat))
    close(diagonal(slope).dense(), flat.diag())
    assert "symmetric Operator 66 x 66" in repr(h)


def test_blocks_are_those_of_the_matrix(oracle, batch, exact):
    h = hessian(oracle, batch)
    close(h.block("0.*").dense(), exact[:42, :42])
    close(h.block("*.bias").dense(), exact[[*range(35, 42), *range(63, 66)]][:, [*range(35, 42), *range(63, 66)]])
    layers = h.blocks()
    assert list(layers) == ["0", "2"]
    close(layers["2"].dense(), exact[42:, 42:])
    assert list(h.blocks("tensor")) == list(oracle.params)
    close(h.diag(), exact.diagonal())


def test_scipy_sees_the_same_matrix(oracle, batch, exact):
    import numpy as np
    from scipy.sparse.linalg import LinearOperator, eigsh

    operator = hessian(oracle, batch).to_scipy()
    assert isinstance(operator, LinearOperator)
    assert operator.dtype == np.float64
    np.testing.assert_allclose(operator @ np.eye(len(exact)), exact, atol=1e-13)
    top = eigsh(operator, k=2, which="LA", return_eigenvectors=False)
    np.testing.assert_allclose(top, torch.linalg.eigvalsh(exact)[-2:], rtol=1e-9)
    j = jacobian(of_module(nn.Linear(5, 3).double(), F.cross_entropy), batch)
    np.testing.assert_allclose(j.to_scipy().T @ np.eye(j.shape[0]), j.dense().T, atol=1e-13)


def test_a_linear_loss_has_no_curvature(batch):
    oracle = of_module(nn.Linear(5, 3).double(), lambda z, y: z.sum(-1))
    assert not hessian(oracle, batch).dense().any()
    assert not ggn(oracle, batch).dense().any()


def test_what_cannot_be_is_refused(oracle, batch):
    h, j = hessian(oracle, batch), jacobian(oracle, batch)
    square = Space({"x": (2,)}, torch.float64)
    cases = [
        (lambda: h @ torch.zeros(5), r"66 x 66 got a tensor of shape \(5,\)"),
        (lambda: h @ "v", "multiplied by str"),
        (lambda: h @ {"0.weight": torch.zeros(7, 5)}, "differ in '0.bias'"),
        (lambda: h @ {n: torch.zeros(2) for n in oracle.params}, "shape .* for '0.weight'"),
        (lambda: h + identity(square), "do not add"),
        (lambda: h @ identity(square), "do not compose"),
        (lambda: j.block("0.*"), "maps a space to itself"),
        (lambda: j.symmetric(), "cannot be symmetric"),
        (lambda: h.block("1.*"), "Unknown tensor '1.*'"),
        (lambda: h.blocks("model"), "by='model'"),
        (lambda: Operator(square, lambda v: v, h.domain), "no transposed product"),
        (lambda: hessian(oracle, batch, route="sideways"), "Unknown route 'sideways'"),
        (lambda: hessian(oracle, 3), "data of type int"),
        (lambda: hessian(oracle, []), "no examples"),
        (lambda: hessian(oracle, batch, {}), "got no tensors"),
        (lambda: hessian(oracle, batch, {"a": torch.zeros(1), "b": torch.zeros(1).half()}), "several kinds"),
        (lambda: fisher(oracle, batch, kind="true"), "Unknown kind of Fisher matrix 'true'"),
        (lambda: fisher(oracle, batch, likelihood="poisson"), "Unknown likelihood 'poisson'"),
        (lambda: fisher(oracle, batch, kind="mc", num_samples=0), "num_samples=0"),
        (lambda: gradient_covariance(oracle, (batch[0][:1], batch[1][:1])), "got 1 example"),
    ]
    for make, text in cases:
        with pytest.raises(FalllineError, match=text):
            make()
