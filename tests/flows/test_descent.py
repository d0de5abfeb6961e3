"""Modified flows against their formulas, brute force and the runs that they describe."""

import math

import pytest
import torch
from torch.func import grad, hessian, jacrev

import fallline.methods  # noqa: F401  registers them
from fallline.core.errors import InvalidTypeError, InvalidValueError
from fallline.core.method import METHODS
from fallline.core.oracle import of_module
from fallline.flows import (
    EULER,
    AdamNoise,
    adam_flow,
    central_path,
    compare,
    dal_rate,
    flat_loss,
    follow,
    gradient_flow,
    hvp,
    mean_epoch,
    modified_adam_flow,
    modified_field,
    modified_flow,
    modified_loss,
    modified_momentum_flow,
    momentum_flow,
    principal_coefficients,
    principal_flow,
    principal_path,
    second_order_flow,
    sharpness_gradient,
    shuffled_loss,
    sign_flow,
    solve,
    stability_coefficients,
    top_eigenpairs,
)
from fallline.flows.descent import START, small_network

H = torch.tensor([[2.0, 0.5], [0.5, 0.7]], dtype=torch.float64)
W = torch.tensor([1.0, -0.8], dtype=torch.float64)


def bowl(w):
    return w @ H @ w / 2


def bent(w):
    return bowl(w) + (w**4).sum() / 6 + w[0] * w[1] ** 2


def test_products_and_eigenpairs():
    v = torch.tensor([0.3, 1.0], dtype=torch.float64)
    assert torch.allclose(hvp(bent, W, v), hessian(bent)(W) @ v)
    values, vectors = top_eigenpairs(bent, W)
    assert values[0] > values[1]
    assert torch.allclose(vectors @ torch.diag(values) @ vectors.T, hessian(bent)(W))


def test_a_model_as_a_loss_of_one_vector():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
    loss = flat_loss(of_module(model, torch.nn.functional.mse_loss), (x, y))
    assert float(loss(loss.start)) == pytest.approx(float(torch.nn.functional.mse_loss(model(x), y)))
    model.zero_grad()
    torch.nn.functional.mse_loss(model(x), y).backward()
    assert torch.allclose(grad(loss)(loss.start), torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert list(loss.split(loss.start)) == [name for name, _ in model.named_parameters()]


# -- backward error analysis --------------------------------------------------------------------------------------------


def test_the_second_order_flow_is_the_gradient_flow_of_the_modified_loss():
    lr = 0.1
    found = modified_flow(bent, lr)(W)
    assert torch.allclose(found, -grad(modified_loss(bent, lr))(W))
    assert torch.allclose(found, modified_field(gradient_flow(bent), lr, 2)(W))
    assert torch.allclose(found, -grad(bent)(W) - lr / 2 * hessian(bent)(W) @ grad(bent)(W))


def test_the_third_order_is_its_formula():
    lr, g, h = 0.1, grad(bent)(W), hessian(bent)(W)
    third = torch.einsum("ijk,j,k->i", jacrev(hessian(bent))(W), g, g)
    expected = -g - lr / 2 * h @ g - lr**2 * (h @ h @ g / 3 + third / 12)
    assert torch.allclose(modified_flow(bent, lr, 3)(W), expected)


def test_on_quadratics_the_orders_are_the_series_of_the_principal_flow():
    lr, g = 0.1, H @ W
    powers = [torch.linalg.matrix_power(lr * H, n) @ g / (n + 1) for n in range(4)]
    for order in (1, 2, 3, 4):
        assert torch.allclose(modified_flow(bowl, lr, order)(W), -sum(powers[:order]))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_one_step_errs_by_one_power_more_than_the_order(order):
    errors = []
    for lr in (0.04, 0.02):
        step = W - lr * grad(bent)(W)
        errors.append(float((solve(modified_flow(bent, lr, order), W, lr, 1).end - step).norm()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order + 1, abs=0.2)


def test_fields_that_are_no_gradients():
    def rotation(y):
        return torch.stack([y[1], -y[0]])

    # Euler spirals out: f1 = -f' f / 2 is radial, outwards
    found = modified_field(rotation, 0.1, 2)(W)
    assert torch.allclose(found, rotation(W) + 0.05 * W)
    with pytest.raises(InvalidValueError, match=r"order=0. Expected at least 1"):
        modified_field(rotation, 0.1, 0)


# -- comparison ---------------------------------------------------------------------------------------------------------


def test_compare_measures_the_orders_of_theory():
    sgd = METHODS["sgd"](lr=0.1)
    plain = compare(sgd, lambda loss, lr: gradient_flow(loss), bent, W, until=0.4, rates=(0.02, 0.01))
    better = compare(sgd, modified_flow, bent, W, until=0.4, rates=(0.02, 0.01))
    assert plain.order == pytest.approx(1, abs=0.1)
    assert plain.local_order == pytest.approx(2, abs=0.1)
    assert better.order == pytest.approx(2, abs=0.1)
    assert better.local_order == pytest.approx(3, abs=0.1)
    assert len(plain.drift[0]) == 21
    assert plain.drift[0][0] == 0
    assert better.final[0] < plain.final[0]


def test_compare_momentum_after_a_warmup():
    ball = METHODS["sgd"](lr=0.1, momentum=0.6)
    found = compare(
        ball,
        lambda loss, lr: modified_momentum_flow(loss, lr, 0.6),
        bent,
        W,
        until=0.1,
        rates=(0.01, 0.005),
        warmup=0.2,
    )
    assert found.order == pytest.approx(2, abs=0.35)


def test_follow_runs_the_method():
    points = follow(METHODS["sgd"](lr=0.1), bent, W, 2)
    assert torch.allclose(points[1], W - 0.1 * grad(bent)(W))
    assert points.shape == (3, 2)


def test_errors_of_compare():
    with pytest.raises(InvalidTypeError, match="Expected a chain with a hyperparameter lr"):
        compare(METHODS["sgd"], modified_flow, bent, W, until=1.0)
    with pytest.raises(InvalidValueError, match=r"rates=\(0.1,\) and until=1.0. Expected at least two"):
        compare(METHODS["sgd"](lr=0.1), modified_flow, bent, W, until=1.0, rates=(0.1,))


# -- momentum -----------------------------------------------------------------------------------------------------------


def test_without_momentum_its_flows_are_those_of_descent():
    assert torch.allclose(momentum_flow(bent, 0.0)(W), gradient_flow(bent)(W))
    assert torch.allclose(modified_momentum_flow(bent, 0.1, 0.0)(W), modified_flow(bent, 0.1)(W))
    with pytest.raises(InvalidValueError, match=r"momentum=1.0. Expected a number in \[0, 1\)"):
        momentum_flow(bent, 1.0)


def test_the_second_order_flow_on_a_spring():
    end = solve(
        second_order_flow(lambda w: w.square().sum() / 2, 0.0), torch.tensor([1.0, 0.0], dtype=torch.float64), 1.0, 20
    ).end
    assert end.tolist() == pytest.approx([math.cos(1), -math.sin(1)], abs=1e-6)


# -- shuffling ----------------------------------------------------------------------------------------------------------


def batches(w):
    return torch.stack([bent(w), bowl(w), (w - 1).square().sum(), w.sum().square()])


def test_the_shuffled_loss_is_both_of_its_forms():
    lr, slopes = 0.1, jacrev(batches)(W)
    mean = slopes.mean(0)
    variance = (slopes - mean).square().sum(1).mean()
    expected = batches(W).mean() + lr / 4 * mean.square().sum() + lr / 4 * variance
    assert torch.allclose(shuffled_loss(batches, lr)(W), expected)


def test_one_batch_is_descent():
    one = lambda w: bent(w).unsqueeze(0)  # noqa: E731
    assert torch.allclose(shuffled_loss(one, 0.1)(W), modified_loss(bent, 0.1)(W))
    assert torch.allclose(mean_epoch(one, W, 0.1), W - 0.1 * grad(bent)(W))


# -- the principal flow -------------------------------------------------------------------------------------------------


def test_coefficients():
    alpha = principal_coefficients(torch.tensor([0.0, 1e-9, -0.5, 0.5, 1.5, 1.9, 2.1, 3.0], dtype=torch.float64))
    expected = [-1, -1, -2 * math.log(1.5), -1.386, -0.462, -0.056, 0.045, 0.231]
    assert alpha.real.tolist() == pytest.approx(expected, abs=6e-4)
    assert alpha.imag.tolist() == pytest.approx([0] * 4 + [math.pi / x for x in (1.5, 1.9, 2.1, 3.0)])
    assert principal_coefficients(torch.ones(1)).real.item() == -math.inf


def test_the_path_is_descent_at_every_step_and_between_them_the_flow():
    for lr in (0.2, 0.7, 1.3):
        descent = follow(METHODS["sgd"](lr=lr), bowl, W, 6)
        path = principal_path(H, W, lr, lr * torch.arange(7, dtype=torch.float64))
        assert torch.allclose(path.real, descent, rtol=1e-10, atol=1e-12)
    stable = solve(principal_flow(bowl, 0.2), W, 1.2, 60).end
    assert torch.allclose(stable, follow(METHODS["sgd"](lr=0.2), bowl, W, 6)[-1], atol=1e-6)


def test_with_all_eigenvectors_the_two_forms_agree_and_with_few_they_nearly_do():
    whole, split = principal_flow(bent, 0.1)(W), principal_flow(bent, 0.1, k=2)(W)
    assert torch.allclose(whole, split)
    few = principal_flow(bent, 0.1, k=1)(W)
    assert float((few - whole).norm()) < float((modified_flow(bent, 0.1)(W) - whole).norm())


def test_stability_coefficients_add_up_to_the_change_of_the_loss():
    lr = 0.1
    parts, alpha = stability_coefficients(bent, W, lr)
    assert float(parts.sum()) == pytest.approx(float(grad(bent)(W) @ principal_flow(bent, lr)(W)))
    assert stability_coefficients(bent, W, 3.0)[0][0] > 0  # beyond the edge descent climbs along the first
    assert alpha.dtype == torch.complex128


def test_dal_rates():
    w = top_eigenpairs(bowl, W, 1)[1][:, 0]
    top = float(torch.linalg.eigvalsh(H)[-1])
    assert dal_rate(bowl, w) == pytest.approx(2 / top)
    assert dal_rate(bowl, w, power=0.5) == pytest.approx(2 / top**0.5)
    assert dal_rate(lambda w: w.sum(), W, most=3.0) == 3.0
    with pytest.raises(InvalidValueError, match=r"power=0. Expected a number above 0"):
        dal_rate(bowl, W, power=0)


# -- adaptive -----------------------------------------------------------------------------------------------------------


def test_adams_flows_at_their_limits():
    g = grad(bent)(W)
    assert torch.allclose(sign_flow(bent, 1e-20)(W), -g.sign())
    no_memory = modified_adam_flow(bent, AdamNoise(0.1, 0.0, 0.0, 1e12))  # descent with a rate of 1e-6
    assert torch.allclose(1e6 * no_memory(W), -g - 0.1 / 1e6 * hessian(bent)(W) @ g / 2, rtol=1e-5)


def test_adam_seeks_large_gradients_when_it_remembers_squares_longer():
    g = grad(bent)(W)
    uphill = grad(lambda w: grad(bent)(w).abs().sum())(W)
    bias = modified_adam_flow(bent, AdamNoise(0.01, 0.5, 0.9, 1e-12))(W) - sign_flow(bent, 1e-12)(W)
    assert float(bias @ uphill) > 0
    assert float(g.abs().min()) > 0.1


def test_adam_flow_is_adam_with_short_steps():
    lr, memory = 0.002, 0.1
    method = AdamNoise(lr, 1 - lr / memory, 1 - lr / (2 * memory), 1e-3)
    g = grad(bent)(W)
    w, m, v = W, g, g * g
    for _ in range(100):
        g = grad(bent)(w)
        m, v = method.b1 * m + (1 - method.b1) * g, method.b2 * v + (1 - method.b2) * g * g
        w = w - lr * m / (v.sqrt() + method.eps)
    g = grad(bent)(W)
    end = solve(adam_flow(bent, method), torch.cat([W, g, g * g]), 0.2, 40).end[:2]
    assert float((end - w).norm()) < 0.02 * float((w - W).norm())


# -- central flow -------------------------------------------------------------------------------------------------------


def test_the_gradient_of_the_sharpness_against_finite_differences():
    s, u, up = sharpness_gradient(bent, W)
    assert torch.allclose(hessian(bent)(W) @ u, s * u)
    numbers = [
        float(sharpness_gradient(bent, W + e)[0] - sharpness_gradient(bent, W - e)[0]) / 2e-5
        for e in 1e-5 * torch.eye(2, dtype=torch.float64)
    ]
    assert up.tolist() == pytest.approx(numbers, rel=1e-6)


def test_off_the_edge_the_central_flow_is_gradient_flow():
    path = central_path(small_network, START, 0.01, 5, substeps=2)
    assert float(path.variance.max()) == 0
    flow = solve(gradient_flow(small_network), START, 0.05, 10, EULER).points[::2]
    assert torch.allclose(path.points, flow)
    assert torch.allclose(path.loss, torch.stack([small_network(w) for w in path.points]))
