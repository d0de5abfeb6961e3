"""Random streams and design points: pure functions of their index, independent, and balanced."""

import hashlib

import numpy as np
import pytest
import torch

from fallline.core.space import linear, log
from fallline.lab import streams
from fallline.lab.design import BUDGETS, edges, point, setting, tuned_names


def test_seeds_are_the_same_on_every_platform_and_version():
    digest = hashlib.blake2b(b"fallline/7/order/3", digest_size=8).digest()
    assert streams.seed_of(7, "order", 3) == int.from_bytes(digest, "big") >> 1 == 1610449572342617088
    assert streams.seed_of(0, "init") == streams.seed_of(0, "init", 0)


def test_streams_are_independent():
    seeds = {
        streams.seed_of(s, stream, c)
        for s in range(20)
        for stream in ("init", "order", "noise", "dropout")
        for c in range(20)
    }
    assert len(seeds) == 20 * 4 * 20


def test_batches_are_a_pure_function_of_seed_and_step_and_cover_each_epoch_once():
    epoch = torch.cat([streams.batch_indices(1, t, 4, 22) for t in range(1, 6)])
    assert len(set(epoch.tolist())) == 20  # the short tail is dropped
    assert torch.equal(streams.batch_indices(1, 9, 4, 22), streams.batch_indices(1, 9, 4, 22))
    assert not torch.equal(streams.batch_indices(1, 1, 4, 22), streams.batch_indices(1, 6, 4, 22))
    assert not torch.equal(streams.batch_indices(1, 1, 4, 22), streams.batch_indices(2, 1, 4, 22))


def test_seeding_a_block_restores_the_callers_random_state():
    before = torch.get_rng_state()
    with streams.seeded(3, "init"):
        a = torch.rand(3)
    with streams.seeded(3, "init"):
        b = torch.rand(3)
    assert torch.equal(a, b)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=lambda b: b.name)
def test_every_budget_is_balanced_in_every_dimension(budget):
    points = np.array([point(i) for i in range(budget.trials)])
    for column in points.T:  # one point in each of n equal bins
        assert sorted((column * budget.trials).astype(int)) == list(range(budget.trials))


def test_points_do_not_depend_on_how_many_are_asked_for():
    assert point(5) == point(5)
    assert len({point(i) for i in range(64)}) == 64


def test_small_budgets_tune_only_the_most_important_hyperparameters():
    space = {"lr": log(1e-3, 1e-1), "b1": linear(0.5, 0.9), "eps": log(1e-9, 1e-3)}
    assert tuned_names(space, BUDGETS["quick"].num_tuned) == ("lr",)
    assert tuned_names(space, BUDGETS["thorough"].num_tuned) == ("lr", "b1", "eps")
    assert set(setting(space, 2, 3)) == {"lr", "b1"}
    assert 1e-3 <= setting(space, 1, 3)["lr"] <= 1e-1


def test_an_edge_is_where_no_tried_point_lies_beyond():
    space = {"lr": log(1e-3, 1e-1)}
    tried = [{"lr": x} for x in (0.002, 0.01, 0.05)]
    assert edges(space, tried, {"lr": 0.01}) == []
    (high,) = edges(space, tried, {"lr": 0.05})
    assert (high.side, str(high.widened)) == ("high", "0.001..1")
    (low,) = edges(space, tried, {"lr": 0.002})
    assert (low.side, str(low.widened)) == ("low", "0.0001..0.1")
    assert edges(space, tried[:1], tried[0]) == []  # one point has no edge to speak of
