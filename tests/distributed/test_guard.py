"""A bad gradient on one rank's part holds back every rank, and leaves everything as it was, bitwise."""

import re

import pytest
import torch
from sharding_tools import CHAINS, differences, everything, give_gradients, mesh_of, parameters, run
from torch.distributed.tensor import DTensor, Replicate, Shard

import fallline
from ranks import run_ranks

KINDS = [((7, 5), Shard(0)), ((4, 4), None), ((6, 6), Shard(1)), ((3,), Replicate())]


def spoil(p, t, rank, bad_rank, value):
    """At step 1, one element of one rank's part."""
    if t == 1 and rank == bad_rank:
        p.grad.to_local().view(-1)[2] = value


def guarded(rank, world_size, value, bad_rank, policy):
    mesh, found = mesh_of(world_size), {}
    for name in CHAINS:
        named = parameters(mesh, KINDS)
        optimizer = fallline.Optimizer(named, CHAINS[name](), nonfinite=policy)
        message, unchanged = "", []
        for t in range(3):
            give_gradients(named, t)
            spoil(named[0][1], t, rank, bad_rank, value)
            before = everything(named, optimizer)
            try:
                optimizer.step()
            except RuntimeError as error:
                message = str(error)
            unchanged.append(not differences(everything(named, optimizer), before, 0))
        steps = [int(optimizer.state[p]["step"]) for _, p in named]
        found[name] = (unchanged, optimizer.num_skipped, steps, optimizer.param_groups[0]["step"], message)
    return found


@pytest.mark.parametrize(("world_size", "value", "bad_rank"), [(2, float("nan"), 1), (3, 1e25, 0)])
def test_a_bad_gradient_on_one_rank_is_skipped_by_all(world_size, value, bad_rank):
    for found in run_ranks(guarded, world_size, value, bad_rank, "skip"):
        for name, outcome in found.items():
            assert outcome == ([False, True, False], 1, [2] * 4, 2, ""), name


def test_all_ranks_raise():
    for rank, found in enumerate(run_ranks(guarded, 2, float("inf"), 1, "raise")):
        for unchanged, _, steps, _, message in found.values():
            assert unchanged == [False, True, False]
            assert steps == [2] * 4
            where = r"in 'p0' \(shape \(7, 5\)\)" if rank == 1 else "in a part of a parameter that another rank holds"
            assert re.search(where, message)


def zeroed(rank, world_size):
    named = parameters(mesh_of(world_size), KINDS)
    optimizer = fallline.Optimizer(named, CHAINS["clip"](), nonfinite="zero")
    for t in range(3):
        give_gradients(named, t)
        spoil(named[0][1], t, rank, 1, float("nan"))
        optimizer.step()
    return everything(named, optimizer)


def test_zero_cleans_the_part_that_is_bad():
    named = parameters(None, KINDS)
    optimizer = fallline.Optimizer(named, CHAINS["clip"](), nonfinite="zero")
    for t in range(3):
        give_gradients(named, t)
        if t == 1:
            named[0][1].grad.view(-1)[4 * 5 + 2] = float("nan")
        optimizer.step()
    for got in run_ranks(zeroed, 2):
        assert not differences(got, everything(named, optimizer), 1e-6)


def flagged(rank, world_size):
    """The way of devices other than the CPU, which keep the verdict as a flag."""
    from fallline.core.guard import Guard

    Guard.look = Guard._look_without_reading
    named = parameters(mesh_of(world_size), KINDS)
    outcomes = []
    for name in ("adamw", "lamb", "muon", "clip"):
        optimizer = fallline.Optimizer(named, CHAINS[name]())
        unchanged = []
        for t in range(3):
            give_gradients(named, t)
            spoil(named[0][1], t, rank, 1, float("nan"))
            before = everything(named, optimizer)
            optimizer.step()
            unchanged.append(not differences(everything(named, optimizer), before, 0))
        outcomes.append((unchanged, optimizer.num_skipped, isinstance(optimizer._guard._skipped, torch.Tensor)))
    return outcomes


def test_a_flag_that_is_not_read_holds_back_all_ranks():
    for outcomes in run_ranks(flagged, 2):
        assert outcomes == [([False, True, False], 1, True)] * 4


def test_the_guard_costs_nothing_in_the_result():
    def again(rank, world_size):
        return run("adamw", mesh_of(world_size), kinds=KINDS)

    for got in run_ranks(again, 2):
        assert not differences(got, run("adamw", kinds=KINDS), 1e-6)
        assert all(not isinstance(v, DTensor) for slots in got.values() for v in slots.values())
