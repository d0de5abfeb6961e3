"""Principal components against a singular value decomposition, random walks against their eigenvalues, and the words."""

import math

import pytest
import torch

from fallline.core.errors import InvalidValueError
from fallline.landscape import moved, snapshot, trajectory_pca, trajectory_slice, walk_shares


def test_components_are_those_of_the_singular_value_decomposition():
    made = torch.Generator().manual_seed(0)
    points = [
        {"a": torch.randn(3, 4, generator=made).double(), "b": torch.randn(5, generator=made).double()}
        for _ in range(7)
    ]
    found = trajectory_pca(points, num_components=3)
    rows = torch.stack([torch.cat([p["a"].flatten(), p["b"]]) for p in points])
    _, s, vt = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    torch.testing.assert_close(found.shares, (s**2 / (s**2).sum())[:3])
    for component, v in zip(found.components, vt, strict=False):
        flat = torch.cat([component["a"].flatten(), component["b"]])
        assert abs(float(flat @ v)) == pytest.approx(1, rel=1e-9)
        torch.testing.assert_close(flat.norm(), torch.ones((), dtype=torch.float64))
    assert not found.coordinates[-1].any()
    back = rows[0] - rows[-1]
    flat = torch.cat([found.components[0]["a"].flatten(), found.components[0]["b"]])
    assert float(found.coordinates[0, 0]) == pytest.approx(float(back @ flat), rel=1e-9)


def test_the_shares_of_a_walk_are_those_of_its_expected_gram_matrix():
    n = 12
    t = torch.arange(n, dtype=torch.float64)
    gram = torch.minimum(t[:, None], t)  # the covariance of a walk's positions
    centre = torch.eye(n, dtype=torch.float64) - 1 / n
    values = torch.linalg.eigvalsh(centre @ gram @ centre).flip(0)
    torch.testing.assert_close(walk_shares(n, n - 1), (values / values.sum())[:-1])
    assert float(walk_shares(100_000, 1)[0]) == pytest.approx(6 / math.pi**2, rel=1e-6)


def test_a_walk_is_called_a_walk_and_a_decay_is_not():
    made = torch.Generator().manual_seed(0)
    walk = trajectory_pca([{"w": x} for x in torch.randn(100, 2000, generator=made).cumsum(0)])
    assert walk.resembles_walk
    assert "cannot be told from a random walk" in walk.warning
    assert "of a random walk of 100 points in high dimension it holds 60.8%" in walk.warning
    ends = torch.randn(3, 2000, generator=made)
    decay = trajectory_pca([{"w": ends[0] * 0.8**t + ends[1] * 0.3**t + 1e-3 * t * ends[2]} for t in range(100)])
    assert not decay.resembles_walk
    assert "differs from a random walk in" in decay.warning


def test_the_plane_of_a_trajectory(oracle, batch):
    params, points = oracle.params, []
    for _ in range(6):
        points.append(snapshot(oracle))
        _, gradients = oracle.value_and_grad(params, batch)
        with torch.no_grad():
            for name, p in params.items():
                p -= 0.5 * gradients[name]
    pca = trajectory_pca(points)
    found = trajectory_slice(oracle, batch, pca, num=5)
    assert found.losses.shape == (5, 5)
    assert torch.equal(found.path, pca.coordinates)
    assert float(found.x[0]) < float(pca.coordinates[:, 0].min())
    corner = [float(found.x[0]), float(found.y[0])]
    direct = oracle.loss(moved(points[-1], pca.components, corner), batch)
    assert float(found.losses[0, 0]) == pytest.approx(float(direct.detach()), rel=1e-12)
    tight = trajectory_slice(oracle, batch, pca, num=5, margin=0.0)
    ends = [float(tight.x[0]), float(tight.x[-1])]
    assert ends == [float(pca.coordinates[:, 0].min()), float(pca.coordinates[:, 0].max())]


def test_errors(oracle, batch):
    points = [snapshot(oracle) for _ in range(4)]
    with pytest.raises(InvalidValueError, match=r"got points that are all equal. Expected a trajectory"):
        trajectory_pca(points)
    with pytest.raises(InvalidValueError, match=r"got 2 points and num_components=2"):
        trajectory_pca(points[:2])
    made = torch.Generator().manual_seed(0)
    found = trajectory_pca([{"w": torch.randn(9, generator=made)} for _ in range(5)])
    with pytest.raises(InvalidValueError, match=r"num=1, margin=0.2. Expected at least 2 places"):
        trajectory_slice(oracle, batch, found, num=1)
