"""Matching against all permutations, shuffled copies found again, repair against statistics that are computed directly."""

from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fallline.core.errors import InvalidValueError, UnknownNameError
from fallline.core.oracle import of_loss, of_module
from fallline.landscape import (
    Site,
    Symmetry,
    activation_matching,
    interpolate,
    mix,
    repair,
    snapshot,
    symmetry_of,
    weight_matching,
)
from fallline.landscape.claims import WIDTHS, classifier, minimum


def mlp(seed, widths=(5, 4, 3)):
    torch.manual_seed(seed)
    layers = [nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)]
    return nn.Sequential(*[m for layer in layers[:-1] for m in (layer, nn.ReLU())], layers[-1]).double()


def cnn(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(32, 10), nn.ReLU(), nn.Linear(10, 3),
    ).double()  # fmt: skip


def point_of(model):
    return snapshot(of_module(model, F.cross_entropy), buffers=True)


def test_one_group_is_matched_as_well_as_any_permutation_could():
    a, b, symmetry = point_of(mlp(0)), point_of(mlp(1)), symmetry_of(mlp(0))

    def inner(p):
        return sum(float((a[n] * t).sum()) for n, t in symmetry.permute(b, {"0": torch.tensor(p)}).items())

    found = weight_matching(symmetry, a, b)
    best = max(permutations(range(4)), key=inner)
    assert tuple(found.permutations["0"].tolist()) == best
    assert found.after >= found.before


def test_two_groups_reach_a_maximum_that_no_single_group_improves():
    a, b, symmetry = point_of(mlp(0, (5, 4, 4, 3))), point_of(mlp(1, (5, 4, 4, 3))), symmetry_of(mlp(0, (5, 4, 4, 3)))

    def inner(found):
        return sum(float((a[n] * t).sum()) for n, t in symmetry.permute(b, found).items())

    found = weight_matching(symmetry, a, b)
    for group in symmetry.groups:
        for p in permutations(range(4)):
            assert inner({**found.permutations, group: torch.tensor(p)}) <= inner(found.permutations) + 1e-12
    several = weight_matching(symmetry, a, b, num_starts=10)
    assert several.after >= found.after
    everything = max(
        inner({"0": torch.tensor(p), "2": torch.tensor(q)})
        for p in permutations(range(4))
        for q in permutations(range(4))
    )
    assert inner(several.permutations) == pytest.approx(everything)


def test_a_shuffled_convolutional_network_is_found_again():
    model = cnn()
    x, y = torch.randn(40, 1, 8, 8).double(), torch.randint(3, (40,))
    with torch.no_grad():
        model.train()(x)  # running statistics of its own
    oracle, symmetry = of_module(model, F.cross_entropy), symmetry_of(model)
    one = snapshot(oracle, buffers=True)
    shuffle = symmetry.random(one, seed=2)
    other = symmetry.permute(one, shuffle)
    assert not torch.equal(other["1.running_mean"], one["1.running_mean"])
    assert interpolate(oracle, (x, y), one, other).barrier > 1e-3
    for found in (weight_matching(symmetry, one, other), activation_matching(oracle, (x, y), symmetry, one, other)):
        for name, t in one.items():
            assert torch.equal(found.params[name], t)
        for group, p in found.permutations.items():
            assert torch.equal(shuffle[group][p], torch.arange(len(p)))
        assert found.after == pytest.approx(1)
        assert all(float(s.min()) > 1 - 1e-9 for s in found.scores.values())
        assert found.num_moved["0"] == int((shuffle["0"].argsort() != torch.arange(6)).sum())
        assert interpolate(oracle, (x, y), one, found.params).barrier == 0


def test_scores_of_activations_are_correlations(batch):
    x, y = batch
    model = mlp(0)
    oracle, a, b = of_module(model, F.cross_entropy), point_of(mlp(0)), point_of(mlp(1))
    found = activation_matching(oracle, [(x[:10], y[:10]), (x[10:], y[10:])], symmetry_of(model), a, b)
    z = [(x @ p["0.weight"].T + p["0.bias"]).numpy().T for p in (a, b)]
    full = np.corrcoef(z[0], z[1])[:4, 4:]
    best = max(permutations(range(4)), key=lambda p: sum(full[i, j] for i, j in enumerate(p)))
    assert tuple(found.permutations["0"].tolist()) == best
    np.testing.assert_allclose(found.scores["0"].numpy(), [full[i, j] for i, j in enumerate(best)], rtol=1e-9)


def test_a_dead_unit_has_correlation_zero(batch):
    model = mlp(0)
    a, b = point_of(mlp(0)), point_of(mlp(1))
    a["0.weight"][1] = 0
    found = activation_matching(of_module(model, F.cross_entropy), batch, symmetry_of(model), a, b)
    assert float(found.scores["0"][1]) == 0


def test_repaired_units_have_the_mean_statistics(batch):
    widths = (5, 8, 6, 3)
    model, a, b = mlp(0, widths), point_of(mlp(0, widths)), point_of(mlp(1, widths))
    oracle, symmetry = of_module(model, F.cross_entropy), symmetry_of(mlp(0, widths))
    found = repair(oracle, batch, symmetry, a, b, t=0.3)

    def outputs(p):
        first = batch[0] @ p["0.weight"].T + p["0.bias"]
        return first, first.relu() @ p["2.weight"].T + p["2.bias"]

    for one, two, merged in zip(outputs(a), outputs(b), outputs(found.params), strict=True):
        torch.testing.assert_close(merged.mean(0), 0.7 * one.mean(0) + 0.3 * two.mean(0))
        torch.testing.assert_close(
            merged.std(0, correction=0), 0.7 * one.std(0, correction=0) + 0.3 * two.std(0, correction=0)
        )
    assert all(v == pytest.approx(1) for v in found.variance_after.values())
    assert found.variance_before["0"] < 1
    torch.testing.assert_close(found.params["4.weight"], mix(a, b, 0.3)["4.weight"])
    at_the_end = repair(oracle, batch, symmetry, a, b, t=0.0).params
    for name, t in a.items():
        torch.testing.assert_close(at_the_end[name], t)


def test_with_batch_normalisation_the_running_statistics_are_those_of_the_merged_network():
    model, x, y = cnn(), torch.randn(30, 1, 8, 8).double(), torch.randint(3, (30,))
    oracle, symmetry = of_module(model, F.cross_entropy), symmetry_of(model)
    a, b = point_of(cnn(0)), point_of(cnn(1))
    found = repair(oracle, (x, y), symmetry, a, b).params
    merged = F.conv2d(x, found["0.weight"], found["0.bias"])
    torch.testing.assert_close(found["1.running_mean"], merged.mean((0, 2, 3)))
    torch.testing.assert_close(found["1.running_var"], merged.var((0, 2, 3)))
    torch.testing.assert_close(found["0.weight"], (a["0.weight"] + b["0.weight"]) / 2)
    assert not model[1].running_mean.any()


def test_repair_need_not_help():
    model, oracle, data = classifier(*WIDTHS)
    one, symmetry = minimum(1), symmetry_of(model)
    two = weight_matching(symmetry, one, minimum(2)).params
    middle, repaired = mix(one, two, 0.5), repair(oracle, data, symmetry, one, two).params
    assert float(oracle.loss(middle, data)) < float(oracle.loss(repaired, data))


def test_errors(batch):
    a, symmetry = point_of(mlp(0)), symmetry_of(mlp(0))
    oracle = of_module(mlp(0), F.cross_entropy)
    with pytest.raises(InvalidValueError, match=r"got num_starts=0, max_sweeps=100. Expected at least 1 of each"):
        weight_matching(symmetry, a, a, num_starts=0)
    with pytest.raises(InvalidValueError, match=r"Two points differ in '0.weight'"):
        weight_matching(symmetry, a, point_of(mlp(0, (5, 6, 3))))
    with pytest.raises(UnknownNameError, match=r"Unknown layer 'fc1'"):
        activation_matching(oracle, batch, Symmetry({"fc1": (Site("0.weight", 0),)}), a, a)
    with pytest.raises(InvalidValueError, match=r"got t=2. Expected a place from 0 to 1"):
        repair(oracle, batch, symmetry, a, a, t=2)
    bare = nn.Sequential(nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 3)).double()
    with pytest.raises(
        InvalidValueError, match=r"needs a weight and a bias of layer '0'.*Give the layer a bias of zero"
    ):
        repair(of_module(bare, F.cross_entropy), batch, symmetry_of(bare), point_of(bare), point_of(bare))
    skipping = of_loss(mlp(0), lambda model, batch: model[2](batch[0][:, :4]).square().mean())
    with pytest.raises(InvalidValueError, match=r"The loss never calls layer '0'"):
        activation_matching(skipping, batch, symmetry, a, a)
