"""Sophia-G and low-rank PSGD by hand: means, cuts, intervals; the group's step against its formulae with matrices."""

import pytest
import torch
from curved import data, direction, flat, gradient_of, mlp, softmax

from fallline.core.errors import FalllineError
from fallline.curvature import hessian
from fallline.objectives import sam
from fallline.second_order import psgd_lra, sophia_g
from fallline.second_order.low_rank import preconditioned


def test_sophia_is_its_recursion():
    oracle = softmax(mlp())
    solver = sophia_g(oracle, b1=0.8, b2=0.6, gamma=0.3, every=2)
    m, h = 0.0, 0.0
    for t in range(4):
        batch = data(seed=t)
        fresh = sophia_g(oracle, b2=0.0, every=1)
        fresh.state["count"] = torch.tensor(t)  # the same draw
        direction(fresh, batch, statistics=True)
        if t % 2 == 0:
            h = 0.6 * h + 0.4 * flat({n: fresh.state[f"{n}.h"] for n in oracle.params})
        m = 0.8 * m + 0.2 * gradient_of(oracle, batch)
        expected = (m / (0.3 * h).clamp(min=1e-12)).clamp(-1, 1)
        torch.testing.assert_close(direction(solver, batch, statistics=True), expected)
        assert solver.gradients == 1 + (t % 2 == 0)


def test_sophias_diagonal_is_the_square_of_one_backward_pass_times_the_batch():
    oracle, batch = softmax(mlp()), data()
    solver = sophia_g(oracle, b2=0.0)
    direction(solver, batch, statistics=True)
    h = flat({n: solver.state[f"{n}.h"] for n in oracle.params})
    assert (h >= 0).all()
    bias = solver.state["2.bias.h"]  # of the last layer the rows are the draws themselves
    p = oracle.outputs(oracle.params, batch).softmax(1).detach()
    second = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    from fallline.second_order.layers import draws

    torch.testing.assert_close(bias, 10 * draws(second, 1, 0)[0].mean(0).square())


def dense(solver):
    """Q and P as matrices."""
    u, v, d = (solver.state[k] for k in "uvd")
    q = (torch.eye(len(d), dtype=d.dtype) + u @ v.T) @ torch.diag(d)
    return q, q.T @ q


def test_products_with_p_are_those_of_its_matrix():
    oracle, batch = softmax(mlp()), data()
    solver = psgd_lra(oracle, 3)
    found = direction(solver, batch, statistics=True)
    _, p = dense(solver)
    torch.testing.assert_close(found, p @ gradient_of(oracle, batch))
    torch.testing.assert_close(torch.linalg.eigvalsh(p).min() > 0, torch.tensor(True))


@pytest.mark.parametrize("turn", [0, 1])
def test_a_step_goes_down_the_criterion_along_its_gradient(turn):
    """U's and V's directions are -dL/dU and -dL/dV in the group's coordinates, found here by autograd on the dense criterion."""
    from fallline.second_order.low_rank import _one_step

    made = torch.Generator().manual_seed(0)
    u, v = (torch.randn(6, 2, generator=made, dtype=torch.float64) / 3 for _ in range(2))
    u, v = u / (u.norm() / v.norm()).sqrt(), v * (u.norm() / v.norm()).sqrt()
    d = torch.rand(6, generator=made, dtype=torch.float64) + 0.5
    probe, h = (torch.randn(6, generator=made, dtype=torch.float64) for _ in range(2))

    def criterion(u, v, d):
        q = (torch.eye(6, dtype=torch.float64) + u @ v.T) @ torch.diag(d)
        return (q @ h).square().sum() + torch.linalg.solve(q.T, probe).square().sum()

    zeros = {k: torch.zeros((), dtype=torch.float64) for k in "uvd"}
    new = _one_step(u, v, d, probe, h, 1e-6, zeros, turn)
    assert criterion(new["u"], new["v"], new["d"]) < criterion(u, v, d)
    moved = "u" if turn == 0 else "v"
    scale = new["d"] / d  # what the diagonal's step did to both
    step = (new["u"] / scale[:, None] - u) if moved == "u" else (new["v"] * scale[:, None] - v)
    assert float(step.norm()) > 0
    other = new["v"] * scale[:, None] if moved == "u" else new["u"] / scale[:, None]
    torch.testing.assert_close(other, v if moved == "u" else u)
    leaves = [x.clone().requires_grad_() for x in (u, v)]
    slopes = torch.autograd.grad(criterion(*leaves, d), leaves)
    assert float((step * slopes[turn]).sum()) < 0


def test_whitening_takes_the_gradient_for_h():
    oracle, batch = softmax(mlp()), data()
    solver = psgd_lra(oracle, 2, fit="whitening")
    direction(solver, batch, statistics=True)
    assert solver.gradients == 1
    assert psgd_lra(sam(oracle), 2, fit="whitening") is not None
    newton = psgd_lra(oracle, 2)
    direction(newton, batch, statistics=True)
    assert newton.gradients == 3
    assert not torch.allclose(newton.state["d"], solver.state["d"])


def test_the_first_diagonal_has_the_scale_of_the_pair():
    oracle, batch = softmax(mlp()), data()
    solver = psgd_lra(oracle, 2, rate=1e-9, seed=4)
    direction(solver, batch, statistics=True)
    v = torch.randn(51, generator=torch.Generator().manual_seed(4 * 1_000_003), dtype=torch.float64)
    h = hessian(oracle, batch) @ v
    expected = v.square().mean() ** 0.25 * h.pow(4).mean() ** -0.125
    torch.testing.assert_close(solver.state["d"], expected.expand(51), rtol=1e-6, atol=0)


def test_between_the_steps_that_are_due_the_preconditioner_stays():
    oracle, batch = softmax(mlp()), data()
    solver = psgd_lra(oracle, 2)
    direction(solver, batch, statistics=True)
    before = solver.state["d"].clone()
    solver._fitted = None  # called, it would fail
    solver.every = 10
    direction(solver, batch, statistics=True)
    assert torch.equal(solver.state["d"], before)
    assert preconditioned(*(solver.state[k] for k in "uvd"), torch.zeros(51, dtype=torch.float64)).norm() == 0


@pytest.mark.parametrize(("make", "message"), [
    (lambda o: sophia_g(o, b1=1.5), r"b1 is 1\.5"),
    (lambda o: sophia_g(o, gamma=0.0), r"gamma is 0\.0"),
    (lambda o: sophia_g(o, eps=0.0), r"eps is 0\.0"),
    (lambda o: sophia_g(o, every=0), "every=0"),
    (lambda o: psgd_lra(o, 0), "rank=0"),
    (lambda o: psgd_lra(o, 52), "rank=52.*51 parameters"),
    (lambda o: psgd_lra(o, 2, every=0), "every=0"),
    (lambda o: psgd_lra(o, 2, rate=0.0), r"rate is 0\.0"),
    (lambda o: psgd_lra(o, 2, fit="newton"), "fit of psgd_lra 'newton'"),
])  # fmt: skip
def test_options_are_checked(make, message):
    with pytest.raises(FalllineError, match=message):
        make(softmax(mlp()))
