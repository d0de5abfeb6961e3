"""K-FAC and E-KFAC by hand: factors, split damping, draws, running means, intervals, convolutions, and layers they leave alone."""

import pytest
import torch
import torch.nn.functional as F
from curved import conv, data, direction, drawn, gradient_of, mlp, softmax
from torch import nn

from fallline.core.errors import FalllineError, InvalidTypeError, InvalidValueError
from fallline.core.oracle import of_loss
from fallline.curvature import fisher, per_example_gradients
from fallline.objectives import sam
from fallline.second_order import ekfac, kfac


def hand_factors(model, batch):
    """A and G of the first layer of ``mlp``, from all classes weighted with their probabilities."""
    x, _ = batch
    a = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    z = model[0](x).detach().requires_grad_()
    p = model[2](torch.tanh(z)).softmax(1).detach()
    g = torch.zeros(6, 6, dtype=torch.float64)
    for label in range(3):
        (delta,) = torch.autograd.grad(
            F.cross_entropy(model[2](torch.tanh(z)), torch.full((len(x),), label), reduction="sum"), z
        )
        g += (p[:, label, None] * delta).T @ delta / len(x)
    return a.T @ a / len(x), g


def test_factors_are_expectations_over_the_models_labels():
    model, batch = mlp(), data()
    solver = kfac(softmax(model), kind="exact")
    direction(solver, batch, statistics=True)
    a, g = hand_factors(model, batch)
    torch.testing.assert_close(solver.state["0.a"], a)
    torch.testing.assert_close(solver.state["0.g"], g)


def test_the_step_splits_the_damping_by_the_traces():
    model, batch = mlp(), data()
    oracle = softmax(model)
    a, g = hand_factors(model, batch)
    pi = ((a.trace() / 5) / (g.trace() / 6)).sqrt()
    left = g + 0.1 / pi * torch.eye(6, dtype=torch.float64)
    right = a + 0.1 * pi * torch.eye(5, dtype=torch.float64)
    slope = oracle.value_and_grad(oracle.params, batch)[1]
    both = torch.cat([slope["0.weight"], slope["0.bias"][:, None]], 1)
    expected = torch.linalg.inv(left) @ both @ torch.linalg.inv(right)
    found = kfac(oracle, 0.01, kind="exact").value_and_grad(oracle.params, batch)[1]
    torch.testing.assert_close(found["0.weight"], expected[:, :4])
    torch.testing.assert_close(found["0.bias"], expected[:, 4])


def test_draws_have_the_exact_factor_as_their_mean():
    model, batch = mlp(), data()
    _, g = hand_factors(model, batch)
    solver = kfac(softmax(model), kind="mc", decay=1.0, every=10_000)  # decay=1: the mean of all draws
    for _ in range(150):
        direction(solver, batch, statistics=True)
    assert (solver.state["0.g"] - g).norm() < 0.1 * g.norm()
    once = kfac(softmax(model), kind="mc")
    direction(once, batch, statistics=True)
    assert (once.state["0.g"] - g).norm() > 0.1 * g.norm()


def test_empirical_factors_are_those_of_the_gradients():
    model, batch = drawn(nn.Sequential(nn.Linear(4, 3, bias=False))), data()
    oracle = softmax(model)
    solver = ekfac(oracle, kind="empirical")
    direction(solver, batch, statistics=True)
    rows = per_example_gradients(oracle, batch)["0.weight"]
    ua, ug = solver.state["0.a_basis"], solver.state["0.g_basis"]
    torch.testing.assert_close(solver.state["0.s"], (ug.T @ rows @ ua).square().mean(0))
    any_loss = of_loss(model, lambda m, b: m(b[0]).logsumexp(1).mean() + m(b[0] * 2).square().mean())
    with pytest.raises(InvalidValueError, match="calls the model 2 times"):
        direction(kfac(any_loss), batch)


@pytest.mark.parametrize("kind", ["exact", "mc", "empirical"])
def test_convolutions_at_one_position_are_linear_layers(kind):
    flat_model = drawn(nn.Sequential(nn.Linear(4, 3)))
    image = nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten()).double()
    with torch.no_grad():
        image[0].weight.copy_(flat_model[0].weight.view(3, 1, 2, 2))
        image[0].bias.copy_(flat_model[0].bias)
    x, y = data()
    for make in (kfac, ekfac):
        one = direction(make(softmax(flat_model), kind=kind), (x, y))
        other = direction(make(softmax(image), kind=kind), (x.view(-1, 1, 2, 2), y))
        torch.testing.assert_close(one, other)


def test_the_scale_of_ekfac_is_the_diagonal_of_the_fisher_matrix_in_its_basis():
    model, batch = conv(), data(shape=(1, 4, 4))
    model[0] = drawn(nn.Conv2d(1, 2, 3, stride=2, padding=1, bias=False))
    oracle = softmax(model)
    solver = ekfac(oracle, kind="exact")
    direction(solver, batch, statistics=True)
    basis = torch.kron(solver.state["0.g_basis"], solver.state["0.a_basis"])
    exact = fisher(oracle, batch, {"0.weight": model[0].weight}).dense()
    torch.testing.assert_close(solver.state["0.s"].flatten(), (basis.T @ exact @ basis).diagonal())


def test_other_parameters_keep_their_gradient():
    oracle, batch = softmax(conv()), data(shape=(1, 4, 4))
    plain = oracle.value_and_grad(oracle.params, batch)[1]
    found = kfac(oracle).value_and_grad(oracle.params, batch)[1]
    assert list(found) == list(plain)
    for name, g in plain.items():
        assert torch.equal(found[name], g) == name.startswith("1."), name


def test_means_run_and_inverses_wait():
    oracle = softmax(mlp())
    solver = kfac(oracle, kind="exact", decay=0.5, every=2)
    batches = [data(seed=s) for s in range(3)]
    seen, inverses = [], []
    for batch in batches:
        direction(solver, batch, statistics=True)
        inverses.append(solver.state["0.a_inverse"].clone())
        alone = kfac(oracle, kind="exact")
        direction(alone, batch, statistics=True)
        seen.append(alone.state["0.a"])
    expected = 0.5 * (0.5 * (seen[0] + seen[1])) + 0.5 * seen[2]
    torch.testing.assert_close(solver.state["0.a"], expected)
    assert torch.equal(inverses[0], inverses[1])
    assert not torch.equal(inverses[1], inverses[2])


def test_large_damping_is_the_gradient():
    oracle, batch = softmax(mlp()), data()
    g = gradient_of(oracle, batch)
    torch.testing.assert_close(1e9 * direction(ekfac(oracle, 1e9), batch), g, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(1e9 * direction(kfac(oracle, 1e9), batch), g, rtol=1e-3, atol=1e-6)


def test_what_is_not_finite_leaves_the_averages_alone():
    oracle = softmax(mlp())
    x, y = data()
    for kind in ("mc", "empirical"):
        for make in (kfac, ekfac):
            solver = make(oracle, kind=kind)
            direction(solver, (x, y), statistics=True)
            before = solver.state_dict()
            assert not direction(solver, (x * float("nan"), y), statistics=True).isfinite().all()
            assert all(torch.equal(v, before[k]) for k, v in solver.state_dict().items())


def test_a_dead_layer_is_left_in_place():
    model = mlp()
    with torch.no_grad():
        model[2].weight.zero_()  # nothing goes back to the first layer
    assert direction(kfac(softmax(model)), data()).isfinite().all()
    assert direction(ekfac(softmax(model)), data()).isfinite().all()


def test_errors_say_what_to_do():
    oracle = softmax(mlp())
    with pytest.raises(FalllineError, match=r"'exakt'.*exact"):
        kfac(oracle, kind="exakt")
    with pytest.raises(InvalidValueError, match=r"ekfac\(\) got every=0.*every=10"):
        ekfac(oracle, every=0)
    with pytest.raises(InvalidValueError, match=r"damping is 0.*above 0"):
        kfac(oracle, 0.0)
    with pytest.raises(InvalidValueError, match=r"decay is 1.5"):
        kfac(oracle, decay=1.5)
    with pytest.raises(InvalidValueError, match=r"kfac\(\) found no linear.*adamw"):
        kfac(softmax(nn.LayerNorm(3)))
    with pytest.raises(InvalidTypeError, match=r"kfac\(\) got an objective"):
        kfac(sam(oracle))
