"""Bundles of a GPU, emulated: they step as eagerly, change nothing on a refused step, and read nothing from the device."""

from contextlib import contextmanager

import pytest
import torch

from emulated import emulated_gpu  # noqa: F401
from fallline import METHODS, Optimizer, chain
from fallline.core import bundle, gather, grid_bundle, guard
from fallline.core.bundle import plan
from fallline.core.grid_bundle import GridBundle, GridFunction
from fallline.core.kernel import compiler_available, segments
from fallline.core.storage import Storage
from fallline.core.types import Reach
from fallline.methods import adamw, lamb, prodigy
from fallline.testing.harness import SHAPES, build, drive, feed, nothing_changes, parameters, same
from fallline.transforms import clip_by_global_norm

pytestmark = [
    pytest.mark.skipif(not compiler_available(), reason="no C++ compiler on this machine"),
    pytest.mark.usefixtures("emulated_gpu"),
]

STEPPED = sorted(name for name, method in METHODS.items() if method.reach != Reach.MATRIX)


def params_of(optimizer):
    return [p.detach() for group in optimizer.param_groups for p in group["params"]]


@pytest.mark.parametrize("name", STEPPED)
def test_every_method_steps_as_eagerly(name):
    shapes = (*SHAPES, (130, 140))
    kernels, eager = (build(METHODS[name], parameters(shapes), fuse=fuse) for fuse in ("auto", "eager"))
    for optimizer in (kernels, eager):
        drive(optimizer, range(1, 5))
    # numbers are float64 in kernels and float32 eagerly; native loops differ from eager as much (vrgd: 2.9e-5)
    assert same(params_of(kernels), params_of(eager), 1e-4)


def test_kernels_express_what_loops_express():
    apart = []
    for name in STEPPED:
        optimizer = build(METHODS[name], parameters(((30, 40),)))
        (leaf,) = optimizer._layout(0, optimizer.param_groups[0]["params"]).units
        chain = segments(optimizer.chains[0].steps, Storage())
        kinds = gather._kinds(leaf, chain)
        if kinds is not None and (plan(chain, kinds) is None) != (plan(chain, kinds, GridFunction) is None):
            apart.append(name)
    assert apart == []


@pytest.mark.parametrize("make", [adamw, lamb, prodigy], ids=lambda m: m.name)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_dtypes_step_as_eagerly(make, dtype):
    ends = []
    for fuse in ("flat", "eager"):
        optimizer = Optimizer(
            parameters(((150, 151), (7, 3), (1,)), dtype), chain(clip_by_global_norm(1.0), make()), fuse=fuse
        )
        drive(optimizer, (1, 2, 3))
        ends.append([p.float() for p in params_of(optimizer)])
    assert same(*ends, {torch.float64: 1e-6, torch.bfloat16: 0.02, torch.float16: 4e-3}[dtype])


@pytest.mark.parametrize("make", [adamw, lamb, prodigy], ids=lambda m: m.name)
def test_a_flag_that_is_false_leaves_everything_as_it_was(make, monkeypatch):
    optimizer = Optimizer(parameters(((40, 50), (6,))), make(), fuse="flat")
    drive(optimizer, (1, 2))
    monkeypatch.setattr(guard.Guard, "look", guard.Guard._look_without_reading)  # as on a device
    for p in feed(optimizer, 3):
        p.grad[0] = float("nan")
    before = {id(p): int(optimizer.state[p]["step"]) for p in optimizer.param_groups[0]["params"]}
    group_step = optimizer.param_groups[0]["step"]
    with nothing_changes_but_the_groups_count(optimizer):
        optimizer.step()
    assert optimizer.num_skipped == 1
    assert optimizer.param_groups[0]["step"] == group_step + 1
    assert before == {id(p): int(optimizer.state[p]["step"]) for p in optimizer.param_groups[0]["params"]}
    moved = [p.clone() for p in params_of(optimizer)]
    drive(optimizer, (3,))
    assert not same(moved, params_of(optimizer))


@contextmanager
def nothing_changes_but_the_groups_count(optimizer):
    """The group counts calls, refused ones too, where nothing is read from the device."""
    group = optimizer.param_groups[0]
    count = group["step"]
    with nothing_changes(optimizer, "a step with NaN"):
        yield
        now, group["step"] = group["step"], count
    group["step"] = now


def test_memory_that_is_not_aligned_is_read_one_by_one():
    ends = []
    for fuse in ("flat", "eager"):
        whole = torch.arange(60.0)
        params = [torch.nn.Parameter(whole[1:50]), torch.nn.Parameter(whole[50:59])]
        optimizer = Optimizer(params, adamw(0.1), fuse=fuse)
        drive(optimizer, (1, 2))
        ends.append([whole.clone()])
    assert same(*ends, 1e-6)
    assert [float(ends[0][0][i]) for i in (0, 59)] == [0.0, 59.0]  # the neighbours are untouched


def test_addresses_travel_only_when_they_have_changed(monkeypatch):
    optimizer = Optimizer(parameters(((40, 50), (6,))), adamw(), fuse="flat")
    drive(optimizer, (1, 2))
    sent = []
    original = grid_bundle.GridTable._there
    monkeypatch.setattr(
        grid_bundle.GridTable, "_there", lambda self, values: sent.append(values) or original(self, values)
    )
    gradients = [p.grad for p in optimizer.param_groups[0]["params"]]
    for _ in range(3):
        for p, g in zip(optimizer.param_groups[0]["params"], gradients, strict=True):
            p.grad = g
        optimizer.step()
    assert len(sent) <= 1


def test_a_gpu_whose_compiler_fails_steps_another_way(monkeypatch):
    monkeypatch.setattr(bundle, "_PLANS", {})
    monkeypatch.setattr(grid_bundle, "current_device", lambda: torch.device("cpu", 0))
    monkeypatch.setattr(grid_bundle, "build", lambda source, names, device: None)
    optimizer = Optimizer(parameters(((40, 50), (6,))), adamw(), fuse="flat")
    drive(optimizer, (1,))
    assert not any(isinstance(unit, GridBundle) for unit in optimizer._layouts[0].units)
