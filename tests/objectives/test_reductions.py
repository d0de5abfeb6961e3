"""Reductions of losses against brute force and scipy, at their edges, and on a real table with corrupted targets."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nets import cross_entropy, data, net
from regression import errors
from scipy.optimize import LinearConstraint, minimize

from fallline import objectives as obj
from fallline.core.errors import FalllineError
from fallline.objectives.robust import chi_square_weights, kl_weights

losses = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=12).map(
    lambda x: torch.tensor(x, dtype=torch.float64)
)


@settings(max_examples=25, deadline=None)
@given(losses, st.floats(-1e6, 1e6))
@example(torch.zeros(1, dtype=torch.float64), 2.2e-313)  # below the smallest normal number, whose inverse is infinite
def test_term_lies_between_the_smallest_and_the_largest_and_shifts_with_the_losses(x, t):
    x = x.clone().requires_grad_()
    value = obj.term(x, t)
    assert float(x.detach().min()) - 1e-9 <= float(value.detach()) <= float(x.detach().max()) + 1e-9
    torch.testing.assert_close(obj.term(x + 7, t), value + 7)
    (weights,) = torch.autograd.grad(value, x)
    torch.testing.assert_close(weights, torch.softmax(t * x.detach(), 0))


@pytest.mark.parametrize("t", [-3.0, -1e-3, 1e-8, 0.5, 40.0])
def test_term_has_second_derivatives(t):
    x = torch.tensor([0.3, 1.0, 0.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: obj.term(x, t), (x,))


def test_term_in_float32_does_not_overflow_and_keeps_small_tilts():
    x = torch.tensor([100.0, 300.0, 200.0])
    assert obj.term(x, 50.0) == pytest.approx(300 - math.log(3) / 50, rel=1e-6)
    assert obj.term(x, -50.0) == pytest.approx(100 + math.log(3) / 50, rel=1e-6)
    assert obj.term(x, 1e-5) == pytest.approx(200 + 1e-5 * 20_000 / 3 / 2, abs=2e-4)


def test_weights_of_zero_leave_examples_out():
    x, w = torch.tensor([1.0, 9.0, 2.0], dtype=torch.float64), torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64)
    for t in (-math.inf, -2.0, 0.0, 1e-9, 2.0, math.inf):
        torch.testing.assert_close(obj.term(x, t, w), obj.term(x[[0, 2]], t))


def test_groups_tilted_by_hand():
    x, groups = torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64), torch.tensor([5, 5, 2])
    within = math.log((math.exp(-2) + math.exp(-6)) / 2) / -2, 2.0
    expected = math.log((2 * math.exp(3 * within[0]) + math.exp(3 * within[1])) / 3) / 3
    assert obj.group_term(x, groups, t=3.0, tau=-2.0) == pytest.approx(expected)


def test_hierarchy_of_two_levels_is_tilts_of_tilts():
    x = torch.arange(6, dtype=torch.float64)
    fine, coarse = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 0, 0, 0, 1, 1])
    inner = torch.stack([obj.term(x[2 * i : 2 * i + 2], -1.0) for i in range(3)])
    expected = obj.term(
        torch.stack([obj.term(inner[:2], 2.0), inner[2]]), 0.5, torch.tensor([2 / 3, 1 / 3], dtype=torch.float64)
    )
    torch.testing.assert_close(obj.hierarchical_term(x, [fine, coarse], [-1.0, 2.0, 0.5]), expected)


def worst(x, constraint):
    """The largest mean over weights under a convex constraint, by scipy."""
    n = len(x)
    found = minimize(
        lambda q: -(q @ x),
        np.full(n, 1 / n),
        jac=lambda q: -x,
        bounds=[(0, 1)] * n,
        constraints=[LinearConstraint(np.ones(n), 1, 1), {"type": "ineq", "fun": constraint}],
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    return -found.fun


@pytest.mark.parametrize("radius", [0.02, 0.3, 1.0])
def test_robust_losses_are_the_maxima_over_their_balls(radius):
    x = torch.rand(6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    square = worst(x.numpy(), lambda q: radius - ((6 * q - 1) ** 2).mean() / 2)
    assert float(obj.chi_square_dro(x, radius)) == pytest.approx(square, rel=1e-6)
    entropy = worst(x.numpy(), lambda q: radius - (q * np.log(np.maximum(6 * q, 1e-300))).sum())
    assert float(obj.kl_dro(x, radius)) == pytest.approx(entropy, rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(losses, st.floats(0, 20))
@example(torch.tensor([0.0] * 7 + [2.8e-11, -1.0], dtype=torch.float64), 1.0)  # largest, but for rounding, is not alone
def test_robust_weights_are_distributions_inside_their_balls(x, radius):
    for weights, divergence in (
        (chi_square_weights(x, radius), lambda q: (len(q) * q - 1).square().mean() / 2),
        (kl_weights(x, radius), lambda q: torch.special.xlogy(q, len(q) * q).sum()),
    ):
        assert float(weights.sum()) == pytest.approx(1)
        assert float(weights.min()) >= 0
        assert float(divergence(weights)) <= radius + 1e-6
        assert float(weights @ x) >= float(x.mean()) - 1e-9


def test_edges_of_robust_losses():
    same = torch.full((4,), 2.0)
    for found in (obj.chi_square_dro(same, 0.5), obj.kl_dro(same, 0.5), obj.cvar(same, 0.9)):
        assert float(found) == pytest.approx(2)
    x = torch.tensor([1.0, 5.0, 5.0, 2.0], requires_grad=True)
    for reduction in (lambda x: obj.chi_square_dro(x, 50.0), lambda x: obj.kl_dro(x, 50.0)):
        (weights,) = torch.autograd.grad(reduction(x), x)
        torch.testing.assert_close(weights, torch.tensor([0.0, 0.5, 0.5, 0.0]))
    assert float(obj.cvar(x.detach(), 0.99)) == 5
    assert float(obj.chi_square_dro(x.detach(), 0.0)) == float(obj.kl_dro(x.detach(), 0.0)) == pytest.approx(3.25)


@settings(max_examples=20, deadline=None)
@given(losses, st.floats(1, 6), st.floats(0, 5))
def test_spectra_are_spectra(x, r, risk):
    n = len(x)
    for spectrum in (
        obj.extremile(n, r),
        obj.esrm(n, risk),
        obj.superquantile(n, 1 - 1 / (1 + min(r, n - 1)) if n > 1 else 0.0),
    ):
        value = float(obj.spectral(x, spectrum))
        assert float(x.mean()) - 1e-9 <= value <= float(x.max()) + 1e-9
        assert float(obj.spectral(x, spectrum, 0.1)) <= value + 1e-9


def test_a_reduced_oracle_has_the_weights_of_its_reduction():
    model = net().eval()
    oracle = cross_entropy(model)
    x = F.cross_entropy(model(data()[0]), data()[1], reduction="none")
    (torch.softmax(-2 * x.detach(), 0) * x).sum().backward()
    obj.reduced(oracle, lambda x: obj.term(x, -2.0)).value_and_grad(oracle.params, data())
    found = obj.reduced(oracle, lambda x: obj.term(x, -2.0)).value_and_grad(oracle.params, data())[1]
    for n, p in oracle.params.items():
        torch.testing.assert_close(found[n], p.grad)


@pytest.mark.parametrize("share", [0.4, 0.8])
def test_negative_tilts_stand_corrupted_targets_on_a_real_table(share):
    found = errors(share, seed=0)
    assert found["term"] < 0.95 * min(found["l1"], found["huber"])
    assert found["term"] < found["erm"] / 2


def test_what_is_wrong_is_said():
    x = torch.tensor([1.0, 2.0])
    with pytest.raises(FalllineError, match="t is nan"):
        obj.term(x, math.nan)
    with pytest.raises(FalllineError, match=r"losses have shape \(2, 1\)"):
        obj.term(x[:, None], 1.0)
    with pytest.raises(FalllineError, match="came with 1 tilts"):
        obj.hierarchical_term(x, [torch.tensor([0, 1])], [1.0])
    with pytest.raises(FalllineError, match=r"beta is 1.0. Expected a finite number of at least 0"):
        obj.cvar(x, 1.0)
    with pytest.raises(FalllineError, match="spectrum has shape"):
        obj.spectral(x, torch.tensor([0.9, 0.1]))
    with pytest.raises(FalllineError, match="radius is -1"):
        obj.kl_dro(x, -1)
