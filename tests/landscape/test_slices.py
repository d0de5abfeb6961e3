"""Points, directions and slices against what they are defined as; nothing of the model changes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fallline.core.errors import InvalidValueError, UnknownNameError
from fallline.core.oracle import of_loss, of_module
from fallline.landscape import mix, moved, normalise, random_direction, slice_1d, slice_2d, snapshot


def norm_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)).double()


def test_a_slice_is_the_loss_at_its_places(model, oracle, batch):
    d = random_direction(oracle.params, seed=3)
    found = slice_1d(oracle, [(batch[0][:4], batch[1][:4]), (batch[0][4:], batch[1][4:])], d, radius=0.5, num=5)
    assert found.positions.tolist() == [-0.5, -0.25, 0.0, 0.25, 0.5]
    for a, loss in zip(found.positions.tolist(), found.losses.tolist(), strict=True):
        at = {name: p + a * d[name] for name, p in oracle.params.items()}
        expected = F.cross_entropy(torch.func.functional_call(model, at, batch[0]), batch[1])
        assert loss == pytest.approx(float(expected.detach()), rel=1e-12)


def test_the_curvature_of_a_slice_is_that_of_the_hessian(oracle, batch):
    from fallline.curvature import hessian

    d = random_direction(oracle.params)
    found = slice_1d(oracle, batch, radius=1e-3, num=3)
    assert found.curvature == pytest.approx(float(hessian(oracle, batch).quadratic(d)), rel=1e-4)


def test_a_plane_through_a_quadratic():
    module = nn.Module()
    module.w = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    h = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    oracle = of_loss(module, lambda model, batch: model.w @ h @ model.w / 2)
    d = [{"w": torch.tensor([1.0, 0.0]).double()}, {"w": torch.tensor([1.0, 1.0]).double()}]
    found = slice_2d(oracle, torch.zeros(1), d, radius=2.0, num=5)
    assert found.losses.shape == (5, 5)
    for i, b in enumerate(found.y.tolist()):
        for j, a in enumerate(found.x.tolist()):
            w = torch.tensor([a + b, b], dtype=torch.float64)
            assert float(found.losses[i, j]) == pytest.approx(float(w @ h @ w / 2), rel=1e-12)
    assert found.cosine == pytest.approx(0.5**0.5)


def test_the_default_plane_is_nearly_orthogonal(oracle, batch):
    found = slice_2d(oracle, batch, num=3)
    assert abs(found.cosine) < 0.3
    assert found.losses[1, 1] == slice_1d(oracle, batch, num=3).losses[1]


def test_filters_get_the_length_of_their_weights():
    params = {"conv": torch.randn(4, 3, 2, 2), "bias": torch.randn(4)}
    d = random_direction(params, seed=1)
    torch.testing.assert_close(d["conv"].flatten(1).norm(dim=1), params["conv"].flatten(1).norm(dim=1))
    assert not d["bias"].any()
    layer = random_direction(params, seed=1, normalisation="layer")
    torch.testing.assert_close(layer["conv"].norm(), params["conv"].norm())
    whole = random_direction(params, seed=1, normalisation="whole")
    joined = [torch.cat([t.flatten() for t in x.values()]).norm() for x in (whole, params)]
    torch.testing.assert_close(*joined)
    raw = random_direction(params, seed=1, normalisation="none")
    torch.testing.assert_close(normalise(raw, params), d)
    assert not torch.equal(raw["conv"], random_direction(params, seed=2, normalisation="none")["conv"])


def test_units_scaled_one_by_one_do_change_the_slice(model, oracle, batch):
    from fallline.landscape import symmetry_of

    one = snapshot(oracle)
    two = symmetry_of(model).rescale(one, {"0": torch.logspace(-1, 1, 8, dtype=torch.float64)})
    losses = [slice_1d(oracle, batch, params=p, num=5).losses for p in (one, two)]
    assert float((losses[0] - losses[1]).abs().max()) > 0.01


def test_nothing_of_the_model_changes():
    model = norm_net().train()
    x, y = torch.randn(12, 5).double(), torch.randint(3, (12,))
    with torch.no_grad():
        model(x)
    before, modes = {n: t.clone() for n, t in model.state_dict().items()}, [m.training for m in model.modules()]
    oracle = of_module(model, F.cross_entropy)
    frozen = slice_1d(oracle, (x, y), num=3)
    own = slice_1d(oracle, (x, y), num=3, batch_statistics=True)
    assert not torch.equal(frozen.losses, own.losses)
    assert torch.equal(frozen.losses, slice_1d(oracle, (x, y), num=3).losses)  # dropout is off
    assert modes == [m.training for m in model.modules()]
    for name, t in model.state_dict().items():
        assert torch.equal(t, before[name])
    model.eval()[1].train()
    assert own.losses[1] == pytest.approx(float(F.cross_entropy(model(x), y).detach()), rel=1e-12)


def test_buffers_of_a_point_take_the_place_of_the_models():
    model = norm_net()
    x, y = torch.randn(12, 5).double(), torch.randint(3, (12,))
    oracle = of_module(model, F.cross_entropy)
    point = snapshot(oracle, buffers=True)
    point["1.running_mean"] += 1.0
    found = slice_1d(oracle, (x, y), {}, params=point, num=3).losses[1]
    assert float(model[1].running_mean.abs().max()) == 0
    model[1].running_mean += 1.0
    assert found == pytest.approx(float(F.cross_entropy(model.eval()(x), y).detach()), rel=1e-12)
    assert slice_1d(oracle, (x, y), params=point, num=3).losses[1] == found
    slice_1d(oracle, (x, y), {}, params=point, num=3, batch_statistics=True)
    assert float(point["1.running_mean"].max()) == 1.0


def test_points_between_points(oracle):
    a, b = snapshot(oracle), {name: p + 1 for name, p in snapshot(oracle).items()}
    torch.testing.assert_close(mix(a, b, 0.25)["0.weight"], a["0.weight"] + 0.25)
    torch.testing.assert_close(moved(a, [a, {"0.bias": a["0.bias"]}], [1.0, 2.0])["0.bias"], 4 * a["0.bias"])
    count = {"n": torch.tensor(3)}
    assert mix(count, {"n": torch.tensor(8)}, 0.5)["n"] == 3


def test_errors(oracle, batch):
    a = snapshot(oracle)
    with pytest.raises(UnknownNameError, match=r"Unknown normalisation 'filtre'. Did you mean filter"):
        random_direction(a, normalisation="filtre")
    with pytest.raises(InvalidValueError, match=r"num=4. Expected a radius above 0 and an odd number"):
        slice_1d(oracle, batch, num=4)
    with pytest.raises(InvalidValueError, match=r"radius=-1"):
        slice_2d(oracle, batch, radius=-1)
    with pytest.raises(InvalidValueError, match=r"got 1 directions. Expected two"):
        slice_2d(oracle, batch, [a])
    with pytest.raises(UnknownNameError, match=r"Unknown tensor in a direction '0.wieght'. Did you mean 0.weight"):
        slice_1d(oracle, batch, {"0.wieght": a["0.weight"]})
    with pytest.raises(
        InvalidValueError, match=r"differ in '0.bias': it is of shape \(8,\) in one and absent in the other"
    ):
        mix(a, {name: p for name, p in a.items() if name != "0.bias"}, 0.5)
    with pytest.raises(InvalidValueError, match=r"of shape \(5, 8\) in one and of shape \(8, 5\) in the other"):
        normalise({**a, "0.weight": a["0.weight"].T}, a)


def test_a_filter_of_zeros_stays():
    w, d = torch.randn(3, 4), torch.randn(3, 4)
    d[1] = 0
    for how in ("filter", "layer", "whole"):
        found = normalise({"w": d}, {"w": w}, how)["w"]
        assert found.isfinite().all()
        assert not found[1].any()
