"""A run saved on two ranks goes on the same way on one, two or three."""

import pytest
from sharding_tools import CHAINS, differences, everything, give_gradients, mesh_of
from sharding_tools import parameters as made
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, Shard

import fallline
from fallline.checkpoint import load_sharded, save_sharded
from ranks import run_ranks

KINDS = [((7, 5), Shard(0)), ((7, 5), Shard(1)), ((3, 3), Replicate()), ((4, 4), None), ((1, 3), Shard(0))]
OTHERS = [((7, 5), Shard(1)), ((7, 5), Shard(0)), ((3, 3), Shard(0)), ((4, 4), Replicate()), ((1, 3), Replicate())]
NAMES = ("adamw", "rows", "mean", "clip")


class Model(nn.Module):
    def __init__(self, named):
        super().__init__()
        for name, p in named:
            self.register_parameter(name, p)


def built(name, mesh=None, kinds=KINDS):
    named = made(mesh, kinds)
    return named, Model(named), fallline.Optimizer(named, CHAINS[name]())


def steps(named, optimizer, times):
    for t in times:
        give_gradients(named, t)
        optimizer.step()


def write(rank, world_size, folder):
    for name in NAMES:
        named, model, optimizer = built(name, mesh_of(world_size))
        steps(named, optimizer, range(4))
        save_sharded(folder / name, model=model, optimizer=optimizer)


def resume(rank, world_size, folder, kinds):
    found = {}
    for name in NAMES:
        named, model, optimizer = built(name, mesh_of(world_size), kinds)
        for _, p in named:
            p.detach().zero_()
        load_sharded(folder / name, model=model, optimizer=optimizer)
        for _, p in named:
            like = [v for v in optimizer.state[p].values() if v.shape == p.shape and p.dim()]
            assert all(isinstance(v, DTensor) and v.placements == p.placements for v in like) or like[0].dim()
        steps(named, optimizer, range(4, 8))
        found[name] = everything(named, optimizer)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs")
    run_ranks(write, 2, path)
    return path


@pytest.mark.parametrize(("world_size", "kinds"), [(2, KINDS), (3, KINDS), (3, OTHERS), (1, KINDS), (0, KINDS)])
def test_resumed_runs_go_on_as_if_never_stopped(folder, world_size, kinds):
    if world_size:
        ranks = run_ranks(resume, world_size, folder, kinds)
    else:  # plain tensors, without a process group
        ranks = [{}]
        for name in NAMES:
            named, model, optimizer = built(name)
            load_sharded(folder / name, model=model, optimizer=optimizer)
            steps(named, optimizer, range(4, 8))
            ranks[0][name] = everything(named, optimizer)
    for found in ranks:
        for name in NAMES:
            named, _, optimizer = built(name)
            steps(named, optimizer, range(8))
            assert not differences(found[name], everything(named, optimizer), 1e-6), name
