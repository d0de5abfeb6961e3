"""Ghost batch norm, weight standardisation, conditioning, spectral norms and mean-free batch norm."""

import pytest
import torch
from torch import nn

import fallline
from fallline.core.errors import FalllineError
from fallline.methods import sgd
from fallline.nn import (
    GhostBatchNorm,
    RmsBatchNorm,
    RowEquilibrated,
    ScaledStandardised,
    Standardised,
    condition_number,
    conv_norm,
    isometry_gap,
    lipschitz_bound,
    orthogonal_batch_norm_network,
    scaled_weight_standardise,
    spectral_normalise,
    spectral_norms,
    weight_condition,
    weight_standardise,
    with_ghost_batch_norm,
    zero_last_gamma,
)


def cnn():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Sequential(nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4))
    )


def test_a_batch_that_does_not_divide_is_cut_evenly():
    layer = GhostBatchNorm(3, ghost_size=4)
    x = torch.randn(10, 3, 2, 2)
    out = layer(x).detach()
    for part in out.split([4, 3, 3]):
        assert part.mean((0, 2, 3)) == pytest.approx([0] * 3, abs=1e-6)
    assert layer.eval()(x).shape == x.shape


def test_a_model_with_ghost_batch_norm_starts_where_it_was():
    net, x = cnn(), torch.randn(8, 3, 9, 9)
    net(x)  # moves the running statistics
    expected = net.eval()(x)
    ghost = with_ghost_batch_norm(net, ghost_size=2)
    assert torch.equal(ghost(x), expected)
    assert "ghost_size=2" in repr(ghost)
    assert isinstance(ghost[3][1], GhostBatchNorm)
    assert not ghost[1].training
    one = with_ghost_batch_norm(cnn(), ghost_size=64).train()
    torch.testing.assert_close(one(x), cnn().train()(x))  # one ghost batch is the batch


def test_the_last_gamma_of_a_branch():
    net = cnn()
    assert zero_last_gamma(net, "3.1") == ["3.1"]
    assert not net(torch.randn(2, 3, 9, 9)).any()
    with pytest.raises(
        FalllineError, match=r"no layer with a weight that matches 'bn2'.*normalisations are 1, 3\.1.*\*\.bn2"
    ):
        zero_last_gamma(net, "bn2")
    with pytest.raises(FalllineError, match=r"would set '0', a Conv2d, to zero"):
        zero_last_gamma(net, "*")


def test_what_has_no_ghost_twin_is_refused():
    with pytest.raises(FalllineError, match=r"found no nn\.BatchNorm inside Linear"):
        with_ghost_batch_norm(nn.Linear(2, 2))
    with pytest.raises(FalllineError, match=r"only layers with affine|Only layers with affine"):
        with_ghost_batch_norm(nn.Sequential(nn.BatchNorm1d(3, affine=False)))
    with pytest.raises(FalllineError, match=r"ghost_size=1\. Expected a whole number, at least 2"):
        GhostBatchNorm(3, ghost_size=1)


@pytest.mark.parametrize("standardise", [weight_standardise, scaled_weight_standardise, weight_condition])
def test_parametrised_layers_train_with_our_optimizers_and_load(standardise):
    torch.manual_seed(0)
    net = standardise(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)))
    optimizer = fallline.Optimizer(net, sgd(lr=0.1), fuse="eager")
    x, y = torch.randn(16, 5), torch.randint(3, (16,))
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    again = standardise(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)))
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(x), net(x))


def test_scaled_standardisation_is_plain_over_the_root_of_the_fan_in():
    torch.manual_seed(0)
    layer, other = nn.Conv2d(4, 6, 3).double(), nn.Conv2d(4, 6, 3).double()
    other.load_state_dict(layer.state_dict())
    plain, scaled = weight_standardise(layer, eps=0.0), scaled_weight_standardise(other)
    torch.testing.assert_close(scaled.weight * 6, plain.weight)  # fan-in 36


def test_gradients_are_right():
    torch.manual_seed(0)
    weight = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    for map_ in (Standardised(), ScaledStandardised(3, 1.7).double(), RowEquilibrated()):
        assert torch.autograd.gradcheck(map_, weight)
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(RmsBatchNorm(3).double(), x)


def test_a_fixed_scale_is_a_constant_in_the_backward_pass():
    weight = torch.randn(3, 4, requires_grad=True)
    g = torch.randn(3, 4)
    found = torch.autograd.grad(RowEquilibrated(fixed_scale=True)(weight), weight, g)[0]
    torch.testing.assert_close(found, g / weight.detach().norm(dim=1, keepdim=True))
    assert not RowEquilibrated()(torch.zeros(2, 3)).isnan().any()


def test_layers_without_a_meaning_are_refused():
    with pytest.raises(FalllineError, match=r"weight_standardise\(\) found no linear or convolutional layer of ReLU"):
        weight_standardise(nn.ReLU())
    with pytest.raises(FalllineError, match=r"units have one input.*one weight minus its mean is 0"):
        weight_standardise(nn.Conv2d(4, 4, 1, groups=4))
    with pytest.raises(FalllineError, match=r"spectral_normalise\(\) found no.*'head'"):
        spectral_normalise(nn.Sequential(nn.Linear(2, 2)), "head")


def test_looking_at_spectral_norms_changes_nothing():
    torch.manual_seed(0)
    net = spectral_normalise(nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2))).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert set(spectral_norms(net)) == {"0", "2"}
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training


def test_bounds_that_are_not_known_are_refused():
    with pytest.raises(FalllineError, match=r"found 0 = Conv2d.*Expected nn\.Linear"):
        lipschitz_bound(nn.Sequential(nn.Conv2d(1, 1, 3)))
    with pytest.raises(FalllineError, match=r"found 0 = LeakyReLU"):
        lipschitz_bound(nn.Sequential(nn.LeakyReLU(2.0)))
    with pytest.raises(FalllineError, match=r"images of \(2, 2\)"):
        conv_norm(torch.zeros(1, 1, 3, 3), (2, 2))


def test_the_norm_of_the_flattened_kernel_is_not_that_of_the_convolution():
    weight = torch.ones(1, 1, 3, 3)
    assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(3)
    assert conv_norm(weight, (8, 8)) == pytest.approx(9)  # at frequency 0, the sum


def test_mean_free_batch_norm():
    torch.manual_seed(0)
    layer, x = RmsBatchNorm(4, momentum=1.0), 3 * torch.randn(8, 4) + 2
    out = layer(x)
    assert out.square().mean(0) == pytest.approx([1] * 4)
    torch.testing.assert_close(layer.eval()(x), out)  # momentum 1: the running square is the batch's
    assert condition_number(torch.diag(torch.tensor([1.0, 4.0]))) == pytest.approx(4)


def test_isometry_gaps():
    x = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    assert isometry_gap(x) == pytest.approx(
        torch.log(torch.tensor(5.0 / 3.0)).item()
    )  # mean of 1, 9 over their geometric mean
    with pytest.raises(FalllineError, match=r"shape \(3, 2\).*Take fewer examples"):
        isometry_gap(torch.zeros(3, 2))
    with pytest.raises(FalllineError, match="depth=0"):
        orthogonal_batch_norm_network(8, 0, 8, 2)
