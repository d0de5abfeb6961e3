"""Symmetries of many architectures: the function stays whatever the order and the scale of the units."""

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fallline.core.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from fallline.core.oracle import of_module
from fallline.landscape import Site, Symmetry, snapshot, symmetry_of

VECTORS, IMAGES, SERIES = (6, 5), (6, 2, 8, 8), (6, 2, 10)
NETWORKS = {
    "mlp": (VECTORS, lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4), nn.LeakyReLU(), nn.Linear(4, 3))),
    "no biases": (VECTORS, lambda: nn.Sequential(nn.Linear(5, 7, bias=False), nn.ReLU(), nn.Linear(7, 3, bias=False))),
    "linear": (VECTORS, lambda: nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))),
    "tanh": (VECTORS, lambda: nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))),
    "nested, named": (
        VECTORS,
        lambda: nn.Sequential(
            OrderedDict(body=nn.Sequential(OrderedDict(one=nn.Linear(5, 7), act=nn.ReLU())), head=nn.Linear(7, 3))
        ),
    ),
    "one activation, twice": (
        VECTORS,
        lambda: (lambda act: nn.Sequential(nn.Linear(5, 7), act, nn.Linear(7, 4), act, nn.Linear(4, 3)))(nn.Tanh()),
    ),
    "batch norm": (
        VECTORS,
        lambda: nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Dropout(0.5), nn.Linear(7, 3)),
    ),
    "batch norm, no weights": (
        VECTORS,
        lambda: nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7, affine=False), nn.ReLU(), nn.Linear(7, 3)),
    ),
    "batch norm first": (VECTORS, lambda: nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))),
    "layer norm": (VECTORS, lambda: nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.PReLU(7), nn.Linear(7, 3))),
    "norm after tanh": (VECTORS, lambda: nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 3))),
    "cnn, flattened": (
        IMAGES,
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(20, 6), nn.ReLU(),
            nn.Linear(6, 3),
        ),
    ),
    "cnn, pooled, batch norm": (
        IMAGES,
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.GroupNorm(1, 5), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
        ),
    ),
    "conv 1d": (SERIES, lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.GELU(), nn.Flatten(), nn.Flatten(), nn.Linear(32, 3))),
}  # fmt: skip
CANNOT_SCALE = {"tanh", "one activation, twice", "batch norm, no weights", "conv 1d"}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_function_stays(name):
    shape, make = NETWORKS[name]
    torch.manual_seed(0)
    model = make().double()
    x = torch.randn(shape, dtype=torch.float64)
    for module in model.modules():
        if hasattr(module, "running_mean"):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
        if (
            isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm)
            and module.weight is not None
        ):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    oracle, found = of_module(model.eval(), F.cross_entropy), symmetry_of(model)
    point = snapshot(oracle, buffers=True)
    expected = model(x).detach()
    permuted = found.permute(point, found.random(point, seed=1))
    assert any(not torch.equal(permuted[n], p) for n, p in point.items())
    torch.testing.assert_close(torch.func.functional_call(model, permuted, x), expected)
    assert found.homogeneous == (frozenset() if name in CANNOT_SCALE else frozenset(found.groups))
    sizes = found.sizes(point)
    scaled = found.rescale(point, {g: torch.linspace(0.5, 3, sizes[g], dtype=torch.float64) for g in found.homogeneous})
    torch.testing.assert_close(torch.func.functional_call(model, scaled, x), expected)
    if found.homogeneous:
        assert any(not torch.equal(scaled[n], p) for n, p in point.items())


def test_the_groups_of_a_cnn():
    found = symmetry_of(NETWORKS["cnn, flattened"][1]())
    assert list(found.groups) == ["0", "3", "6"]
    assert found.groups["3"] == (Site("3.weight", 0, 1), Site("3.bias", 0, 1), Site("6.weight", 1, -1))


def test_a_part_of_a_model_and_a_hand_written_symmetry():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))

        def forward(self, x):
            return self.net(x)

    found = symmetry_of(Model().net, prefix="net.")
    by_hand = {"net.0": (Site("net.0.weight", 0, 1), Site("net.0.bias", 0, 1), Site("net.2.weight", 1, -1))}
    assert found == Symmetry(by_hand, frozenset({"net.0"}))
    with pytest.raises(InvalidTypeError, match=r"got Model. Expected nn.Sequential"):
        symmetry_of(Model())


LIN, CONV = nn.Linear(5, 7), nn.Conv2d(2, 4, 3)
REFUSED = {
    "'1', Softmax: what it does to units is not known": (LIN, nn.Softmax(1), nn.Linear(7, 3)),
    "'1', Conv2d: its inputs are in 2 groups": (CONV, nn.Conv2d(4, 4, 3, groups=2)),
    "'2', Linear: it follows feature maps that are not flattened": (CONV, nn.ReLU(), nn.Linear(4, 3)),
    "'2', Conv2d: it follows flattened feature maps": (CONV, nn.Flatten(), nn.Conv2d(4, 4, 1)),
    "'1', Flatten: it flattens some of the dimensions": (CONV, nn.Flatten(2), nn.Linear(4, 3)),
    r"'1', LayerNorm: it normalises \(6, 6\) and not the 4 units": (CONV, nn.LayerNorm([6, 6]), nn.Conv2d(4, 2, 1)),
    "'1', GroupNorm: it normalises 2 groups of units": (CONV, nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1)),
    "'2', BatchNorm1d: it normalises 144 features of 4 units": (
        CONV,
        nn.Flatten(),
        nn.BatchNorm1d(144),
        nn.Linear(144, 3),
    ),
    "'2', Linear: it stands there twice": (nn.Linear(7, 7), nn.ReLU(), None, nn.ReLU(), nn.Linear(7, 3)),
    "Layer '1' reads 14 inputs after the 7 units of '0'": (LIN, nn.Linear(14, 3)),
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_known_is_refused_by_name(text):
    layers = list(REFUSED[text])
    layers = [layers[0] if layer is None else layer for layer in layers]
    with pytest.raises(InvalidValueError, match=text):
        symmetry_of(nn.Sequential(*layers))


def test_errors(model, oracle):
    found, point = symmetry_of(model), snapshot(oracle)
    with pytest.raises(UnknownNameError, match=r"Unknown group of units '4'"):
        found.permute(point, {"4": torch.arange(3)})
    with pytest.raises(InvalidValueError, match=r"'0' is \[0, 0, 0, 0, 0, 0, ...\]. Expected each of 0 ... 7 once"):
        found.permute(point, {"0": torch.zeros(8, dtype=torch.long)})
    for factor in (-1.0, torch.ones(3)):
        with pytest.raises(InvalidValueError, match=r"Expected a number above 0, or 8 of them"):
            found.rescale(point, {"0": factor})
    tanh = symmetry_of(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)))
    with pytest.raises(UnknownNameError, match=r"may be scaled '0'.* It needs ReLU"):
        tanh.rescale(point, {"0": 2.0})
    with pytest.raises(InvalidValueError, match=r"has 5 entries along axis 1. Expected 8, as many as 'a' has units"):
        Symmetry({"a": (Site("0.weight", 0), Site("0.weight", 1))}).sizes(point)
    norm = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3))
    bare = snapshot(of_module(norm, F.cross_entropy))
    with pytest.raises(InvalidValueError, match=r"lacks '1.running_mean'.*snapshot\(oracle, buffers=True\)"):
        symmetry_of(norm).sizes(bare)
