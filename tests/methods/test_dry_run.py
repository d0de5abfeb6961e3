"""Every method trains: at points of its own search space, on a real task, without an error. Diverging is a result, too."""

import math

import pytest

from fallline import METHODS
from fallline.lab import RunSpec, train
from fallline.lab.design import setting
from fallline.tasks import load

STEPS = 20


@pytest.fixture(scope="module")
def task():
    return load("digits-mlp")


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("name", METHODS)
def test_trains_at_points_of_its_space(task, name, index):
    space = METHODS[name].space
    hypers = setting(space, len(space), index)
    record = train(task, RunSpec(task.name, name, tuple(sorted(hypers.items())), 0, STEPS, "tune"))
    assert record["status"] in ("done", "diverged")
    if record["status"] == "done":
        assert math.isfinite(record["final"])
        assert all(map(math.isfinite, record["train_loss"]))
