"""Studies on trained networks: pairs of MLPs on 8x8 digits before and after matching, repair and curves; their trajectories.

`pytest tests/landscape/test_studies.py -m slow -s` prints what docs/landscape.md reports.
"""

import statistics

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fallline.core.oracle import of_module
from fallline.landscape import (
    activation_matching,
    connect,
    flatness,
    interpolate,
    mix,
    repair,
    snapshot,
    symmetry_of,
    trajectory_pca,
    weight_matching,
)
from fallline.tasks.registry import load

PAIRS = ((1, 2), (3, 4), (5, 6))


@pytest.fixture(scope="module")
def data():
    return load("digits-mlp").train.tensors


def network(width, seed):
    torch.manual_seed(seed)
    if width == "convolutional":
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
        )  # fmt: skip
    layers = [nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)]
    return nn.Sequential(*layers)


def trained(data, width, seed, optimizer=torch.optim.Adam, lr=1e-3, steps=450, every=450, buffers=False):
    """The model, its oracle, and snapshots taken while it trained on batches of 64."""
    model = network(width, seed)
    oracle, drawn = of_module(model, F.cross_entropy), torch.Generator().manual_seed(seed)
    chosen, points = optimizer(model.parameters(), lr=lr), []
    for step in range(1, steps + 1):
        i = torch.randint(len(data[0]), (64,), generator=drawn)
        chosen.step(oracle.closure((data[0][i], data[1][i])))
        if step % every == 0:
            points.append(snapshot(oracle, buffers=buffers))
    return model, oracle, points


@pytest.mark.slow
@pytest.mark.parametrize("width", [32, 128, 512])
def test_matching_removes_most_of_the_barrier_and_more_of_it_the_wider_the_network(data, width):
    rows = []
    for one, two in PAIRS:
        model, oracle, (a,) = trained(data, width, one)
        (b,) = trained(data, width, two)[2]
        symmetry = symmetry_of(model)
        by_weight = weight_matching(symmetry, a, b).params
        by_output = activation_matching(oracle, data, symmetry, a, b).params
        middles = [
            mix(a, b, 0.5),
            mix(a, by_weight, 0.5),
            *(repair(oracle, data, symmetry, a, x).params for x in (b, by_weight)),
        ]
        row = [interpolate(oracle, data, a, x).barrier for x in (b, by_weight, by_output)]
        rows.append([*row, *(float(oracle.loss(x, data).detach()) for x in middles)])
    found = [statistics.median(column) for column in zip(*rows, strict=True)]
    print(
        f"\nwidth {width}: median barrier {found[0]:.3f}, by weight {found[1]:.4f}, by output {found[2]:.4f}; loss at the middle"
    )
    print(f"  {found[3]:.3f}, matched {found[4]:.4f}, repaired {found[5]:.3f}, both {found[6]:.4f}; pairs {len(rows)}")
    assert found[1] < found[0] / 4
    assert found[2] < found[0] / 4
    assert found[5] < found[3]
    assert found[6] < found[4]


@pytest.mark.slow
def test_a_convolutional_network_with_batch_normalisation(data):
    rows = []
    images = data[0].reshape(-1, 1, 8, 8), data[1]
    for one, two in PAIRS:
        model, oracle, (a,) = trained(images, "convolutional", one, lr=3e-3, steps=120, every=120, buffers=True)
        (b,) = trained(images, "convolutional", two, lr=3e-3, steps=120, every=120, buffers=True)[2]
        symmetry = symmetry_of(model)
        matched = activation_matching(oracle, images, symmetry, a, b).params
        model.eval()
        middles = [
            mix(a, b, 0.5),
            mix(a, matched, 0.5),
            *(repair(oracle, images, symmetry, a, x).params for x in (b, matched)),
        ]
        rows.append([float(oracle.loss(x, images).detach()) for x in (a, b, *middles)])
    found = [statistics.median(column) for column in zip(*rows, strict=True)]
    print(
        f"\nends {found[0]:.3f} and {found[1]:.3f}, middle {found[2]:.3f}, matched {found[3]:.3f}, repaired {found[4]:.3f}, both {found[5]:.3f}"
    )
    assert found[5] < found[3] < found[2]


@pytest.mark.slow
def test_a_curve_joins_what_a_barrier_divides(data):
    x, y = data
    batches = list(zip(x.split(128), y.split(128), strict=True))
    for one, two in PAIRS:
        _, oracle, (a,) = trained(data, 128, one)
        found = connect(oracle, batches, a, trained(data, 128, two)[2][0])
        ends = max(float(found.path.losses[0]), float(found.path.losses[-1]))
        print(
            f"\nends {ends:.4f}, highest on the curve {found.path.highest:.4f}, on the line {found.straight.highest:.3f}"
        )
        assert found.path.highest < found.straight.highest / 4
        assert found.straight.highest > 5 * ends


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "lr"), [(torch.optim.SGD, 0.1), (torch.optim.Adam, 1e-3)])
def test_training_moves_along_one_line_more_than_a_random_walk_does(data, optimizer, lr):
    _, _, points = trained(data, 128, 1, optimizer, lr, steps=1000, every=10)
    found = trajectory_pca(points)
    print(f"\n{optimizer.__name__} lr {lr}: shares {found.shares.tolist()}, fits {found.cosine_fit.tolist()}")
    print(found.warning)
    assert float(found.shares[0]) > float(found.walk_shares[0]) + 0.2
    assert not found.resembles_walk


@pytest.mark.slow
def test_rescaling_a_trained_network(data):
    model, oracle, (a,) = trained(data, 128, 1)
    before = flatness(oracle, data)
    after = flatness(oracle, data, params=symmetry_of(model).rescale(a, {"0": 10.0}))
    print(f"\n{before}\n{after}")
    assert after.top_eigenvalue > 10 * before.top_eigenvalue
    assert after.fisher_rao == pytest.approx(before.fisher_rao, rel=1e-3)
    assert after.adaptive_worst_case == pytest.approx(before.adaptive_worst_case, rel=1e-2)
