"""Sharded equals unsharded: every reach, every cut, eager and compiled, and what it costs in collectives."""

import copy
import re
import subprocess
import sys

import pytest
import torch
from sharding_tools import (
    CHAINS,
    EVEN,
    PARAMETERS,
    Collectives,
    differences,
    everything,
    give_gradients,
    mesh_of,
    parameters,
    run,
    spread,
)
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import fallline
from fallline.core.errors import FalllineError
from fallline.core.execute import Batch, _run, compiler_available
from fallline.core.kernel import as_number, segments
from fallline.core.spread import pieces
from fallline.core.storage import Storage
from fallline.core.types import Reach
from fallline.core.units import Leaf
from fallline.methods import adamw
from ranks import run_ranks


def all_chains(rank, world_size):
    mesh = mesh_of(world_size)
    main, wide = ("adamw", "lamb", "muon", "clip"), torch.float64
    cases = [(name, "eager", torch.float32) for name in CHAINS]
    cases += [(name, fuse, dtype) for name in main for fuse, dtype in (("eager", wide), ("auto", torch.float32))]
    return {(name, fuse, dtype): run(name, mesh, fuse, dtype=dtype) for name, fuse, dtype in cases}


@pytest.mark.parametrize("world_size", [2, 3])
def test_sharded_equals_unsharded(world_size):
    ranks = run_ranks(all_chains, world_size)
    for (name, fuse, dtype), got in ranks[0].items():
        expected = run(name, dtype=dtype)
        tolerance = 1e-6 if dtype == torch.float32 else 1e-10
        assert not differences(got, expected, tolerance), (name, fuse, dtype)
        for other in ranks[1:]:
            assert not differences(other[name, fuse, dtype], got, 0), "ranks disagree"


def compile_pieces(name):
    """What ranks will run, compiled before they are forked, which share it then."""
    for segment in segments(CHAINS[name]().steps, Storage()):
        for piece in pieces(segment):
            if piece.reach == Reach.ELEMENT:
                p = nn.Parameter(torch.ones(8, 8))
                leaf = Leaf(p, {"step": torch.tensor(1), **{k: torch.ones(8, 8) for k in piece.slots}})
                leaf.g = torch.ones(8, 8)
                leaf.want_update()
                hypers = [as_number(h) for h in piece.hypers]
                with torch.no_grad():
                    _run(Batch([piece], [leaf], True, True), piece, leaf, {"t": 1}, hypers, {})


COMPILED = [((7, 5), Shard(0)), ((6, 6), Shard(1)), ((5,), Shard(0))]
PLAIN = ((7, 5), None)


def compiled(rank, world_size):
    mesh = mesh_of(world_size)
    found = {(name, fuse): run(name, mesh, fuse, COMPILED) for name in ("lamb", "muon", "clip") for fuse in ("leaf",)}
    return found | {("adamw", fuse): run("adamw", mesh, fuse, [*COMPILED, PLAIN]) for fuse in ("leaf", "flat")}


@pytest.mark.skipif(not compiler_available(), reason="no C++ compiler")
def test_compiled_parts_equal_unsharded():
    for name in ("adamw", "lamb", "muon", "clip"):
        compile_pieces(name)
    for got in run_ranks(compiled, 2):
        for (name, fuse), result in got.items():
            expected = run(name, kinds=[*COMPILED, PLAIN] if name == "adamw" else COMPILED)
            assert not differences(result, expected, 2e-6), (name, fuse)


# -- collectives ------------------------------------------------------------------------------------------------------


def counted(rank, world_size):
    mesh, counts = mesh_of(world_size), {}
    for name in CHAINS:
        named = parameters(mesh, EVEN)
        optimizer = fallline.Optimizer(named, CHAINS[name]())
        for t in range(2):
            give_gradients(named, t)
            with Collectives() as collectives:
                optimizer.step()
        counts[name] = dict(collectives.calls)
    named = parameters(None)
    optimizer = fallline.Optimizer(named, CHAINS["clip"]())
    give_gradients(named, 0)
    with Collectives() as collectives:
        optimizer.step()
    return counts, dict(collectives.calls)


def test_collectives_of_a_step():
    """The numbers of the table in docs/architecture.md, for three sharded tensors."""
    for counts, plain in run_ranks(counted, 2):
        assert counts == {
            "adamw": {"allreduce": 1},
            "lamb": {"allreduce": 1 + 2 * 3},
            "mean": {"allreduce": 1 + 2 * 3},
            "muon": {"allreduce": 1, "alltoall": 2},
            "rows": {"allreduce": 1, "alltoall": 2},
            "clip": {"allreduce": 2},
            "largest": {"allreduce": 1 + 2 * 3 + 3},
            "dog": {"allreduce": 2},
            "d_adapt": {"allreduce": 1 + 1 + 3},
        }
        assert plain == {}


# -- gradients, meshes, rounding --------------------------------------------------------------------------------------


def other_gradients(rank, world_size):
    mesh = mesh_of(world_size)
    named = parameters(mesh)
    optimizer = fallline.Optimizer(named, CHAINS["clip"]())
    for t in range(3):
        give_gradients(named, t)
        for i, (_, p) in enumerate(named):
            if isinstance(p, DTensor):
                g = p.grad.full_tensor()
                if i % 2:
                    p.grad = distribute_tensor(g, mesh, [Replicate()])
                else:
                    mine = g * (rank + 1) / sum(range(1, world_size + 1))
                    p.grad = DTensor.from_local(mine, mesh, [Partial()])
        optimizer.step()
    return everything(named, optimizer)


def test_gradients_are_first_laid_out_as_their_parameters():
    for got in run_ranks(other_gradients, 3):
        assert not differences(got, run("clip", steps=3), 1e-6)


TWO_CUTS = [((6, 4), [Shard(0), Shard(1)]), ((5, 3), [Shard(0), Shard(0)]), ((8,), [Replicate(), Shard(0)])]
HYBRID = [((7, 5), [Replicate(), Shard(0)]), ((6, 4), [Shard(1), Replicate()]), ((3,), [Replicate(), Replicate()])]


def two_dimensions(rank, world_size):
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "model"))
    both = {"data": mesh["data"], "model": mesh["model"]}
    named = parameters(mesh, TWO_CUTS) + [(f"q{n}", p) for n, m in both.items() for _, p in parameters(m, EVEN[:1])]
    optimizer = fallline.Optimizer(named, CHAINS["clip"]())
    give_gradients(named, 0)
    with Collectives() as collectives:
        optimizer.step()
    if rank == 3:
        named[0][1].grad.to_local().fill_(torch.nan)
    optimizer.step()
    names = ("lamb", "mean", "rows", "largest")
    results = {name: run(name, mesh, kinds=TWO_CUTS + HYBRID, steps=3) for name in names}
    return results, optimizer.num_skipped, collectives.calls["allreduce"]


def test_meshes_of_two_dimensions():
    for got, skipped, _ in run_ranks(two_dimensions, 4):
        assert skipped == 1
        for name, result in got.items():
            assert not differences(result, run(name, kinds=TWO_CUTS + HYBRID, steps=3), 1e-6), name


ROUNDED = [((7, 5), Shard(0)), ((7, 5), Shard(1)), ((3, 4, 2), Shard(1)), ((6,), Replicate()), ((3, 6), Shard(1))]
ROUNDINGS = [
    {"rounding": "stochastic"},
    {"rounding": "kahan"},
    {"rounding": "stochastic", "state_format": "bfloat16"},
]


def rounded(rank, world_size):
    mesh = mesh_of(world_size)
    return [
        run(name, mesh, fuse, ROUNDED, torch.bfloat16, **options)
        for options in ROUNDINGS
        for name in ("adamw", "rows")
        for fuse in ("eager", "auto")
    ]


@pytest.mark.parametrize("world_size", [2, 3])
def test_rounding_at_random_does_not_depend_on_the_number_of_ranks(world_size):
    expected = [
        run(name, kinds=ROUNDED, dtype=torch.bfloat16, **options)
        for options in ROUNDINGS
        for name in ("adamw", "rows")
        for _ in range(2)
    ]
    for got in run_ranks(rounded, world_size):
        for a, b in zip(got, expected, strict=True):
            assert not differences(a, b, 0)


def test_blocks_of_large_tensors_do_not_share_random_numbers(monkeypatch):
    monkeypatch.setattr("fallline.core.execute.BUNDLE_FROM", 2**40)  # else loops take the whole
    kinds = [((300, 512), None)]  # more than EAGER_BLOCK elements
    eager, auto = (
        run("adamw", None, fuse, kinds, torch.bfloat16, 2, rounding="stochastic") for fuse in ("eager", "auto")
    )
    assert not differences(auto, eager, 0)


# -- copies, explanations, refusals -----------------------------------------------------------------------------------


def copies(rank, world_size):
    mesh = mesh_of(world_size)
    kinds = [k for k in PARAMETERS if k[1] is not None]
    named, results = parameters(mesh, kinds), []
    for how in ("deepcopy", "load", "plain"):
        optimizer = fallline.Optimizer(named, CHAINS["rows"]())
        give_gradients(named, 0)
        optimizer.step()
        if how == "deepcopy":
            twins, twin = copy.deepcopy((named, optimizer))
        elif how == "load":
            twins = [(name, nn.Parameter(p.detach().clone())) for name, p in named]
            twin = fallline.Optimizer(twins, CHAINS["rows"]())
            twin.load_state_dict(optimizer.state_dict())
        else:  # a state_dict of whole tensors, as of one process
            twins = [(name, nn.Parameter(p.detach().clone())) for name, p in named]
            twin = fallline.Optimizer(twins, CHAINS["rows"]())
            saved = optimizer.state_dict()
            saved["state"] = {i: {k: whole_of(v) for k, v in s.items()} for i, s in saved["state"].items()}
            twin.load_state_dict(saved)
        shared = [
            a is b or a.data_ptr() == b.data_ptr() != 0
            for (_, p), (_, q) in zip(named, twins, strict=True)
            for a, b in zip(map(part, optimizer.state[p].values()), map(part, twin.state[q].values()), strict=True)
            if a.numel()
        ]
        for x, o in ((named, optimizer), (twins, twin)):
            give_gradients(x, 1)
            o.step()
        results.append((any(shared), everything(named, optimizer), everything(twins, twin)))
    return results, {name: list(optimizer.state[p]) for name, p in named}


def part(x):
    return x.to_local() if isinstance(x, DTensor) else x


def whole_of(x):
    return x.full_tensor() if isinstance(x, DTensor) else x


def test_copies_go_on_bitwise_and_share_nothing():
    ranks = run_ranks(copies, 3)
    for results, keys in ranks:
        assert keys == ranks[0][1]
        for shared, a, b in results:
            assert not shared
            assert not differences(a, b, 0)


def late(rank, world_size):
    """A frozen parameter that learns later, parts that move, state that is replaced."""
    mesh = mesh_of(world_size)
    named = parameters(mesh, [((6, 6), Shard(0)), ((7, 5), Shard(1)), ((6,), Shard(0))])
    named[0][1].requires_grad_(False)
    optimizer = fallline.Optimizer(named, adamw(lr=0.1))
    for t in range(4):
        give_gradients(named, t)
        if t < 2:
            named[0][1].grad = None
        if t == 1:
            named[1][1].grad = None
        if t == 2:
            optimizer.state[named[2][1]]["adam.m"] = optimizer.state[named[2][1]]["adam.m"] * 2
        optimizer.step()
    return everything(named, optimizer)


def late_alone():
    named = parameters(None, [((6, 6), None), ((7, 5), None), ((6,), None)])
    named[0][1].requires_grad_(False)
    optimizer = fallline.Optimizer(named, adamw(lr=0.1))
    for t in range(4):
        give_gradients(named, t)
        if t < 2:
            named[0][1].grad = None
        if t == 1:
            named[1][1].grad = None
        if t == 2:
            optimizer.state[named[2][1]]["adam.m"].mul_(2)
        optimizer.step()
    return everything(named, optimizer)


def test_parameters_that_come_and_go():
    for got in run_ranks(late, 2):
        assert not differences(got, late_alone(), 1e-6)


def explained(rank, world_size):
    named = parameters(mesh_of(world_size))
    chain = fallline.core.transform.chain(*CHAINS["lamb"]().parts, *CHAINS["muon"]().parts)
    return fallline.Optimizer(named, chain).explain()


def test_explain_names_what_runs_where():
    for text in run_ranks(explained, 2):
        assert re.search(r"sharded   7 tensors; counted are this rank's parts", text)
        assert re.search(r"trust on DTensors, eagerly", text)
        assert re.search(r"orthogonalise eagerly on whole tensors, spread over ranks", text)


def refused(rank, world_size):
    mesh, square = mesh_of(world_size), init_device_mesh("cpu", (1, world_size))
    twice = init_device_mesh("cpu", (2, 2)) if world_size == 4 else None
    big = nn.Parameter(spread(torch.ones(64, 128), mesh, Shard(0)))
    messages = []

    def attempt(p, made=None, **options):
        optimizer = None
        try:
            optimizer = fallline.Optimizer([("w", p)], made or adamw(), **options)
            optimizer.step()
        except FalllineError as error:
            messages.append(str(error))
        return optimizer

    attempt(big, state_format="8bit")
    attempt(nn.Parameter(DTensor.from_local(torch.ones(3), mesh, [Partial()])))
    big.grad = torch.ones(64, 128)
    attempt(big)
    attempt(nn.Parameter(spread(torch.ones(4, 4).bfloat16(), twice, [Shard(0), Shard(1)])), rounding="stochastic")
    late = fallline.Optimizer([("a", nn.Parameter(torch.ones(2)))], adamw(), state_format="8bit")
    try:
        late.add_param_group({"params": [("w", big)]})
    except FalllineError:
        messages.append((len(late.param_groups), len(late.state), len(late._chains)))
    attempt(big, fallline.methods.svrg())
    fine = attempt(nn.Parameter(spread(torch.ones(64, 128), square, [Shard(0), Replicate()])), state_format="8bit")
    return messages, fine is not None


def test_what_cannot_be_sharded_is_refused_by_name():
    for messages, fine in run_ranks(refused, 4):
        assert fine, "one rank holds everything, so that blocks are whole"
        assert re.search(r"state_format='8bit' got the sharded parameter 'w'.*Use state_format='bfloat16'", messages[0])
        assert re.search(r"'w' has placements \[Partial.*Expected Shard or Replicate.*redistribute", messages[1])
        assert re.search(r"gradient of a DTensor parameter \(shape \(64, 128\).*Expected a DTensor", messages[2])
        assert re.search(r"Rounding at random got 'w'.*cut along one dimension.*Use rounding='kahan'", messages[3])
        assert messages[4] == (1, 1, 1)
        assert re.search(
            r"svrg got the DTensor parameter 'w'\. It evaluates gradients at other points.*Use DDP", messages[5]
        )


def test_importing_fallline_imports_no_dtensors():
    code = "import sys, fallline.core.optimizer; assert 'torch.distributed.tensor' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_torch_without_dtensors_steps_plain_parameters(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.distributed.tensor", None)  # importing it now fails
    named = parameters(None)
    optimizer = fallline.Optimizer(named, CHAINS["clip"]())
    give_gradients(named, 0)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.num_skipped == 0
