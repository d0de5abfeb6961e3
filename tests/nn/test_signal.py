"""The signal of a network and the smoothness of its loss: numbers, verdicts, and that looking changes nothing."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fallline import of_module
from fallline.core.errors import FalllineError
from fallline.nn import along_gradient, critical_, nf_resnet, signal, weight_standardise


def tanh_network(depth):
    torch.manual_seed(0)
    return nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(32, 32), nn.Tanh())), nn.Linear(32, 10))


def xavier_half(net):
    for m in net:
        if isinstance(m, nn.Linear):
            nn.init.xavier_uniform_(m.weight, gain=0.5)
            nn.init.zeros_(m.bias)
    return net


def test_it_says_where_a_network_dies():
    x = torch.randn(16, 32)
    alive = signal(critical_(tanh_network(100), torch.tanh, q=0.025), x)
    assert alive.verdict == "signal and gradient pass through 201 layers"
    assert alive.forward_factor == pytest.approx(1, abs=0.05)
    dead = signal(xavier_half(tanh_network(100)), x)
    assert "the signal dies at 18 " in dead.verdict  # a quarter in each of ten linear layers is 1e-6
    assert "the gradient dies at 179, seen from the output" in dead.verdict
    linear = signal(xavier_half(tanh_network(20)), x, layers=(nn.Linear,))
    assert linear.backward_factor == pytest.approx(0.25, rel=0.15)
    net = nn.Sequential(*(nn.Linear(32, 32) for _ in range(4)))
    for layer in net:
        nn.init.orthogonal_(layer.weight, gain=100.0)
    assert signal(net, x).verdict.startswith("the signal explodes at 1 (variance ")
    assert "the gradient explodes at 1, seen from" in signal(net, x).verdict


def test_branches_that_start_at_zero_are_no_death():
    torch.manual_seed(0)
    verdict = signal(nf_resnet([4, 8], 1, 3, inputs=1), torch.randn(4, 1, 8, 8)).verdict
    assert verdict.startswith("signal and gradient pass through")
    assert "no gradient reaches" in verdict
    assert "block1.first" in verdict


def test_the_table_has_a_row_for_every_layer_and_the_verdict():
    net = nn.Sequential(weight_standardise(nn.Linear(4, 6)), nn.ReLU(inplace=True), nn.Linear(6, 2))
    found = signal(net, torch.randn(8, 4))
    lines = found.table().splitlines()
    assert len(lines) == 5
    assert lines[1].split()[:2] == ["0", "Linear"]
    assert lines[-1] == found.verdict
    assert [row.kind for row in found.rows] == ["Linear", "ReLU", "Linear"]
    assert found.rows[1].weight_gradient is None


def test_numbers_are_those_of_a_backward_pass():
    torch.manual_seed(0)
    net, x, y = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), torch.randn(8, 4), torch.randint(3, (8,))
    found = signal(net, x, y, F.cross_entropy)
    hidden = net[0](x)
    hidden.retain_grad()
    F.cross_entropy(net[2](net[1](hidden)), y).backward()
    assert found.rows[0].variance == pytest.approx(hidden.var(unbiased=False).item(), rel=1e-5)
    assert found.rows[0].mean == pytest.approx(hidden.mean().item(), rel=1e-5)
    assert found.rows[0].gradient == pytest.approx(hidden.grad.norm().item(), rel=1e-5)
    own = (net[0].weight.grad.square().sum() + net[0].bias.grad.square().sum()).sqrt().item()
    assert found.rows[0].weight_gradient == pytest.approx(own, rel=1e-5)


def test_looking_changes_nothing():
    net, x = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)), torch.randn(8, 4)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    signal(net, x)
    along_gradient(of_module(net, F.cross_entropy), dict(net.named_parameters()), (x, torch.zeros(8).long()), [0.1])
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert not net[0]._forward_hooks


def test_token_models_and_single_layers():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2))
    assert signal(net, torch.tensor([[1, 2], [3, 4]])).rows[0].kind == "Embedding"
    assert signal(nn.Linear(3, 3), torch.randn(2, 3)).rows[0].name == "Linear"


def test_it_is_drawn(tmp_path):
    figure = signal(tanh_network(5), torch.randn(8, 32)).plot(str(tmp_path / "signal.svg"))
    assert (tmp_path / "signal.svg").read_text().count("<path") > 10
    assert len(figure.axes[0].lines) == 2


def test_misuse_is_explained():
    net, x = nn.Linear(3, 2), torch.randn(4, 3)
    with pytest.raises(FalllineError, match=r"got no loss and targets.*signal\(model, x, targets, F\.cross_entropy\)"):
        signal(net, x, torch.zeros(4).long())
    with pytest.raises(TypeError, match=r"got Linear and list.*tensor, the batch"):
        signal(net, [1, 2])
    with pytest.raises(FalllineError, match=r"saw no layer of Linear of the types \['Conv2d'\]"):
        signal(net, x, layers=(nn.Conv2d,))
    with pytest.raises(FalllineError, match=r"steps=\[\]. Expected positive"):
        along_gradient(of_module(net, F.cross_entropy), dict(net.named_parameters()), (x, torch.zeros(4).long()), [])


def test_effective_smoothness_is_bounded_by_the_curvature():
    """Of a convex quadratic, and reached along its top eigenvector."""
    torch.manual_seed(0)
    net, x = nn.Linear(3, 1, bias=False).double(), torch.randn(20, 3, dtype=torch.float64)
    oracle = of_module(net, lambda out, y: (out - y).square().mean())
    top = torch.linalg.eigvalsh(2 * x.T @ x / 20)[-1].item()
    found = along_gradient(oracle, oracle.params, (x, torch.randn(20, 1, dtype=torch.float64)), [0.01, 0.3])
    assert found.beta <= top
    assert found.beta > 0.1 * top
    assert found.loss_range >= 0
