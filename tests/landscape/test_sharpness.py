"""Measures of sharpness against closed forms, brute force and the matrices of curvature."""

from itertools import product

import pytest
import torch
from torch import nn

from fallline.core.errors import InvalidValueError, UnknownNameError
from fallline.core.oracle import of_loss
from fallline.curvature import fisher, gradient, hessian, sharpness
from fallline.landscape import average_case, epsilon_sharpness, fisher_rao_norm, flatness, snapshot, worst_case

HESSIAN = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, -1.0], [0.0, -1.0, 1.5]], dtype=torch.float64)
NOTHING = torch.zeros(1)


def quadratic(*at):
    module = nn.Module()
    module.w = nn.Parameter(torch.tensor(at, dtype=torch.float64))
    return of_loss(module, lambda model, batch: model.w @ HESSIAN @ model.w / 2)


def test_one_step_is_the_perturbation_of_sam(oracle, batch):
    g = gradient(oracle, batch)
    norm = torch.cat([x.flatten() for x in g.values()]).norm()
    found = worst_case(oracle, batch, 0.1, num_steps=1)
    at = {name: p + 0.1 * g[name] / norm for name, p in oracle.params.items()}
    for name, x in g.items():
        torch.testing.assert_close(found.perturbation[name], 0.1 * x / norm)
    assert found.value == pytest.approx(
        float((oracle.loss(at, batch) - oracle.loss(oracle.params, batch)).detach()), rel=1e-9
    )
    flat = worst_case(oracle, batch, 0.1, num_steps=1, norm="linf").perturbation["0.weight"]
    torch.testing.assert_close(flat, 0.1 * g["0.weight"].sign())


def test_one_adaptive_step_is_the_perturbation_of_asam(oracle, batch):
    g = gradient(oracle, batch)
    w = snapshot(oracle)
    norm = torch.cat([(w[n].abs() * x).flatten() for n, x in g.items()]).norm()
    found = worst_case(oracle, batch, 0.5, num_steps=1, adaptive=True).perturbation
    for name, x in g.items():
        torch.testing.assert_close(found[name], 0.5 * w[name].square() * x / norm)


def test_more_steps_find_the_worst_place_of_a_quadratic():
    oracle = quadratic(0.3, -0.2, 0.1)
    w = oracle.module.w.detach()
    found = worst_case(oracle, NOTHING, 0.5, num_steps=60)
    angles = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    on_sphere = w + 0.5 * angles / angles.norm(dim=1, keepdim=True)
    brute = float((on_sphere @ HESSIAN * on_sphere).sum(1).max() / 2 - w @ HESSIAN @ w / 2)
    assert brute <= found.value <= brute * 1.001
    assert (found.losses.diff() >= -1e-12).all()
    assert float(found.perturbation["w"].norm()) == pytest.approx(0.5)
    corners = torch.tensor(list(product([-0.5, 0.5], repeat=3)), dtype=torch.float64) + w
    brute = float((corners @ HESSIAN * corners).sum(1).max() / 2 - w @ HESSIAN @ w / 2)
    assert worst_case(oracle, NOTHING, 0.5, norm="linf").value == pytest.approx(brute)


def test_at_a_minimum_there_is_no_gradient_to_start_from():
    found = worst_case(quadratic(0.0, 0.0, 0.0), NOTHING, 0.5, num_steps=60)
    assert found.value == pytest.approx(0.125 * float(torch.linalg.eigvalsh(HESSIAN)[-1]), rel=1e-6)
    assert worst_case(quadratic(0.0, 0.0, 0.0), NOTHING, adaptive=True).value == 0  # weights of zero do not move


def test_epsilon_sharpness_is_the_highest_corner_of_the_box():
    oracle = quadratic(1.0, -2.0, 0.5)
    w = oracle.module.w.detach()
    box = 0.1 * (w.abs() + 1)
    corners = w + box * torch.tensor(list(product([-1, 1], repeat=3)), dtype=torch.float64)
    top, here = float((corners @ HESSIAN * corners).sum(1).max() / 2), float(w @ HESSIAN @ w / 2)
    found = epsilon_sharpness(oracle, NOTHING, 0.1)
    assert found.value == pytest.approx(100 * (top - here) / (1 + here), rel=1e-6)
    assert found.loss == pytest.approx(here)


def test_epsilon_sharpness_in_a_subspace_stays_in_its_box(oracle, batch):
    found = epsilon_sharpness(oracle, batch, 1e-2, subspace=4, seed=1)
    drawn = torch.Generator().manual_seed(1)
    w = torch.cat([p.flatten() for p in snapshot(oracle).values()])
    a = torch.randn(len(w), 4, generator=drawn, dtype=torch.float64)
    step = torch.cat([p.flatten() for p in found.perturbation.values()])
    y = torch.linalg.pinv(a) @ step
    torch.testing.assert_close(a @ y, step)
    assert (y.abs() <= 1e-2 * ((torch.linalg.pinv(a) @ w).abs() + 1) * (1 + 1e-9)).all()
    assert found.value > 0
    assert torch.equal(found.losses, epsilon_sharpness(oracle, batch, 1e-2, subspace=4, seed=1).losses)


def test_the_average_rise_is_half_the_trace():
    found = average_case(quadratic(1.0, 2.0, 3.0), NOTHING, 0.1, num_samples=60)
    low, high = found.interval(0.99)
    assert low < 0.01 * float(HESSIAN.trace()) / 2 < high
    assert found.num_products == 120
    adaptive = average_case(quadratic(1.0, 2.0, 3.0), NOTHING, 0.1, adaptive=True, num_samples=60)
    low, high = adaptive.interval(0.99)
    assert low < 0.01 * float(HESSIAN.diagonal() @ torch.tensor([1.0, 4.0, 9.0]).double()) / 2 < high


def test_the_fisher_rao_norm_is_that_of_the_matrix(oracle, batch):
    w = torch.cat([p.flatten() for p in snapshot(oracle).values()])
    for kind in ("empirical", "exact"):
        matrix = fisher(oracle, batch, kind=kind).dense()
        assert fisher_rao_norm(oracle, batch, kind=kind) == pytest.approx(float((w @ matrix @ w).sqrt()), rel=1e-9)


def test_all_measures_together(oracle, batch):
    found = flatness(oracle, batch)
    assert found.top_eigenvalue == pytest.approx(sharpness(hessian(oracle, batch)))
    low, high = found.trace.interval(0.99)
    assert low < float(hessian(oracle, batch).dense().trace()) < high
    assert found.worst_case == worst_case(oracle, batch).value
    point = {name: 2 * p for name, p in snapshot(oracle).items()}
    assert flatness(oracle, batch, params=point).loss == pytest.approx(float(oracle.loss(point, batch).detach()))


@pytest.mark.parametrize("measure", [worst_case, epsilon_sharpness, average_case, fisher_rao_norm, flatness])
def test_buffers_are_not_perturbed(measure, oracle, batch):
    point = {**snapshot(oracle), "1.running_var": torch.ones(8)}
    with pytest.raises(
        InvalidValueError, match=rf"{measure.__name__}\(\) got a point with '1.running_var', which is no trainable"
    ):
        measure(oracle, batch, params=point)


def test_errors(oracle, batch):
    with pytest.raises(UnknownNameError, match=r"Unknown norm 'l3'"):
        worst_case(oracle, batch, norm="l3")
    with pytest.raises(InvalidValueError, match=r"rho=0, num_steps=20. Expected a radius above 0"):
        worst_case(oracle, batch, 0)
    with pytest.raises(InvalidValueError, match=r"subspace=0, num_steps=10. Expected all above 0"):
        epsilon_sharpness(oracle, batch, subspace=0)
    with pytest.raises(
        InvalidValueError, match=r"sigma=0.01, num_samples=1. Expected noise above 0 and at least 2 samples"
    ):
        average_case(oracle, batch, num_samples=1)


def test_a_loss_that_overflows_is_infinitely_high():
    module = nn.Module()
    module.w = nn.Parameter(torch.tensor([0.1, 0.2]))
    oracle = of_loss(module, lambda model, batch: (1 - model.w.square().sum()).log().neg())  # nan outside of the disc
    assert worst_case(oracle, NOTHING, 2.0).value == float("inf")
