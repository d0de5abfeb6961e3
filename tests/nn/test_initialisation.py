"""Mean-field theory against integrals and the literature; initialisers against what they promise."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import quad
from torch import nn

from fallline.core.errors import FalllineError
from fallline.nn import (
    critical,
    critical_,
    critical_at,
    delta_orthogonal_,
    depth_scale,
    fixed_point,
    gaussian_mean,
    singular_values,
    slope,
    variance_gain,
    variance_map,
)

SMOOTH = {"tanh": torch.tanh, "gelu": F.gelu, "relu": torch.relu, "elu": F.elu, "silu": F.silu}

# Gains that the authors of normaliser-free networks publish with their code, from samples: good to about two digits.
PUBLISHED = {F.relu: 1.7139588594436646, F.elu: 1.2716004848480225, F.gelu: 1.7015043497085571, F.selu: 1.0008515119552612, torch.sigmoid: 4.803835391998291}  # fmt: skip


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("variance", [0.04, 1.0, 9.0])
def test_gaussian_means_are_those_of_an_adaptive_integral(name, variance):
    fn, root = SMOOTH[name], variance**0.5

    def integrand(z):
        value = float(fn(torch.tensor(root * z, dtype=torch.float64)))
        return value**2 * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    expected = quad(integrand, -12, 0, epsabs=1e-13)[0] + quad(integrand, 0, 12, epsabs=1e-13)[0]
    assert gaussian_mean(lambda h: fn(h).square(), variance) == pytest.approx(expected, rel=1e-9)


def test_a_kink_elsewhere_costs_little():
    exact = (
        math.erf(2**-0.5 / 0.7) * 0.49
        - 2 * 0.7 * math.exp(-1 / 0.98) / math.sqrt(2 * math.pi)
        + math.erfc(2**-0.5 / 0.7)
    )
    assert gaussian_mean(lambda h: F.hardtanh(h).square(), 0.49) == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize("fn", PUBLISHED, ids=lambda fn: fn.__name__)
def test_gains_are_the_published_ones(fn):
    assert variance_gain(fn) == pytest.approx(PUBLISHED[fn], rel=5e-3)


def test_the_tanh_point_that_deep_convolutional_networks_were_trained_at():
    point = critical_at(torch.tanh, 1.05)  # arXiv:1806.05393 uses weights 1.05 and biases 2.01e-5
    assert point.bias_variance == pytest.approx(2.01e-5, rel=2e-3)
    assert slope(torch.tanh, point.q, 1.05) == pytest.approx(1, abs=1e-9)


def test_phases_of_tanh():
    assert fixed_point(torch.tanh, 0.9) == 0.0
    assert depth_scale(torch.tanh, 0.9) == pytest.approx(-1 / math.log(0.9))  # chi is sigma_w^2 at q = 0
    assert depth_scale(torch.tanh, 2.0) < 0  # chaotic: the gradient grows
    assert depth_scale(torch.relu, 2.0) == math.inf
    q = fixed_point(torch.tanh, 1.8, 0.3)
    assert variance_map(torch.tanh, q, 1.8, 0.3) == pytest.approx(q, rel=1e-12)


def test_a_fixed_point_is_where_iteration_leads():
    q = 1.0
    for _ in range(200):
        q = variance_map(F.gelu, q, 1.5, 0.2)
    assert fixed_point(F.gelu, 1.5, 0.2) == pytest.approx(q, rel=1e-9)


def test_what_has_no_answer_is_refused():
    with pytest.raises(
        FalllineError, match=r"grows without bound\. Expected a pair with a fixed point\. Take a smaller"
    ):
        fixed_point(torch.relu, 2.5, 0.1)
    with pytest.raises(FalllineError, match=r"critical\(\) got q=-1.*positive number.*q=0\.025"):
        critical(torch.tanh, -1)
    with pytest.raises(FalllineError, match=r"would need biases of variance -.*Take the mean off"):
        critical(torch.sigmoid, 1.0)
    assert critical(lambda h: torch.sigmoid(h) - 0.5, 1.0).bias_variance > 0
    with pytest.raises(FalllineError, match=r"critical_at\(\) got weight_variance=0\.5.*between 1 and"):
        critical_at(torch.tanh, 0.5)
    with pytest.raises(FalllineError, match=r"gaussian_mean\(\) got variance=nan"):
        gaussian_mean(torch.tanh, math.nan)


@pytest.mark.parametrize("orthogonal", [True, False])
def test_weights_and_biases_have_the_critical_variances(orthogonal):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(300, 200), nn.Linear(200, 400), nn.Linear(400, 2000))
    point = critical(torch.tanh, 0.5)
    critical_(net, torch.tanh, q=0.5, orthogonal=orthogonal)
    for layer in net[:2]:
        assert layer.weight.var().item() * layer.in_features == pytest.approx(point.weight_variance, rel=0.03)
    assert net[2].bias.var().item() == pytest.approx(point.bias_variance, rel=0.1)


def test_convolutions_are_initialised_at_their_centre():
    conv = critical_(nn.Conv2d(8, 8, 3), torch.relu)
    weight = conv.weight.detach().clone()
    assert torch.linalg.svdvals(weight[:, :, 1, 1]) == pytest.approx([2**0.5] * 8)
    weight[:, :, 1, 1] = 0
    assert not weight.any()
    assert critical_(nn.Conv1d(4, 256, 4, groups=2), torch.relu, orthogonal=False).weight.var().item() == pytest.approx(
        2 / 8, rel=0.1
    )


def test_a_deep_critical_network_of_tanh_is_nearly_an_isometry():
    torch.manual_seed(0)
    net = nn.Sequential(*(m for _ in range(30) for m in (nn.Linear(24, 24), nn.Tanh()))).double()
    x = 0.025**0.5 * torch.randn(1, 24, dtype=torch.float64)
    values = singular_values(critical_(net, torch.tanh, q=0.025), x)
    gaussian = singular_values(critical_(net, torch.tanh, q=0.025, orthogonal=False), x)
    assert values[0] / values[-1] < 10
    assert gaussian[0] / gaussian[-1] > 1e6


def test_initialisers_say_what_they_cannot_do():
    with pytest.raises(FalllineError, match=r"got a weight of shape \(4, 4\).*odd kernel.*orthogonal_"):
        delta_orthogonal_(torch.empty(4, 4))
    with pytest.raises(FalllineError, match=r"shape \(4, 4, 2\)"):
        delta_orthogonal_(torch.empty(4, 4, 2))
    with pytest.raises(FalllineError, match=r"got 8 inputs and 4 outputs.*as many outputs.*Reduce"):
        delta_orthogonal_(torch.empty(4, 8, 3))
    with pytest.raises(FalllineError, match=r"found no layer in Tanh"):
        critical_(nn.Tanh(), torch.tanh)
    with pytest.raises(FalllineError, match=r"groups=1 and an odd kernel.*orthogonal=False"):
        critical_(nn.Conv2d(4, 4, 3, groups=2), torch.tanh)
