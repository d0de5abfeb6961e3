"""Real training: FSDP2 and DDP equal one process on the same data, also inside backward."""

import pytest
import torch
from sharding_tools import CHAINS, differences, everything, mesh_of
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import fallline
from ranks import run_ranks

BATCH = 12  # divides by 1, 2, 3


def mlp(hidden=7):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, hidden), nn.Tanh(), nn.Linear(hidden, 6), nn.Tanh(), nn.Linear(6, 3))


def data(t, rank=0, world_size=1):
    """This rank's share of a batch."""
    generator = torch.Generator().manual_seed(t)
    x, y = torch.randn(BATCH, 5, generator=generator), torch.randn(BATCH, 3, generator=generator)
    return x.chunk(world_size)[rank], y.chunk(world_size)[rank]


def train(model, optimizer, rank=0, world_size=1, steps=5, start=0):
    for t in range(start, start + steps):
        x, y = data(t, rank, world_size)
        (model(x) - y).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def fsdp(mesh):
    model = mlp()
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def results(model, optimizer):
    named = [(name.removeprefix("module."), p) for name, p in model.named_parameters()]
    return everything(named, optimizer)


def alone(name, hidden=7):
    model = mlp(hidden)
    optimizer = fallline.Optimizer(model, CHAINS[name]())
    return results(train(model, optimizer), optimizer)


MAIN = ("adamw", "lamb", "muon", "clip")


def fully_sharded(rank, world_size):
    found = {}
    for name in MAIN:
        model = fsdp(mesh_of(world_size))
        optimizer = fallline.Optimizer(model, CHAINS[name]())
        train(model, optimizer, rank, world_size)
        assert all(isinstance(p, DTensor) for p in model.parameters())
        keys = [list(optimizer.state[p]) for p in model.parameters()]
        found[name] = (results(model, optimizer), keys)
    return found


@pytest.mark.parametrize("world_size", [2, 3])
def test_fully_shard_equals_one_process(world_size):
    ranks = run_ranks(fully_sharded, world_size)
    for found in ranks:
        for name, (got, keys) in found.items():
            # gradients are means of means here, so that rounding differs before the optimizer sees them
            assert not differences(got, alone(name), 2e-5), name
            assert keys == ranks[0][name][1]


def tensor_parallel(rank, world_size):
    found = {}
    for name in MAIN:
        plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
        model = parallelize_module(mlp(hidden=8), mesh_of(world_size), plan)  # the last layer stays plain
        optimizer = fallline.Optimizer(model, CHAINS[name]())
        train(model, optimizer)
        found[name] = results(model, optimizer)
    return found


def test_tensor_parallel_equals_one_process():
    for found in run_ranks(tensor_parallel, 2):
        for name, got in found.items():
            assert not differences(got, alone(name, hidden=8), 2e-5), name


def data_parallel(rank, world_size):
    model = nn.parallel.DistributedDataParallel(mlp())
    optimizer = fallline.Optimizer(model, CHAINS["clip"]())
    train(model, optimizer, rank, world_size)
    return results(model, optimizer)


def test_ddp_equals_one_process():
    for got in run_ranks(data_parallel, 2):
        assert not differences(got, alone("clip"), 2e-5)


def from_torch(rank, world_size):
    model = fsdp(mesh_of(world_size))
    theirs = torch.optim.AdamW(model.named_parameters(), lr=0.1)
    train(model, theirs, rank, world_size, steps=2)
    ours = fallline.optim.AdamW(model.named_parameters(), lr=0.1)
    ours.load_state_dict(theirs.state_dict())
    train(model, ours, rank, world_size, steps=1, start=2)
    back = torch.optim.AdamW(model.named_parameters(), lr=0.1)
    back.load_state_dict(ours.torch_state_dict())
    train(model, back, rank, world_size, steps=2, start=3)
    return {name: p.full_tensor().detach() for name, p in model.named_parameters()}


def test_a_sharded_run_moves_from_torch_and_back():
    model = mlp()
    train(model, torch.optim.AdamW(model.parameters(), lr=0.1))
    for got in run_ranks(from_torch, 2):
        for name, p in model.named_parameters():
            torch.testing.assert_close(got[name], p.detach(), rtol=2e-5, atol=2e-5)


def inside_backward(rank, world_size):
    found = {}
    for name in ("adamw", "lamb", "muon"):
        model = fsdp(mesh_of(world_size))
        optimizer = fallline.Optimizer(model, CHAINS[name]())
        optimizer.step_in_backward()
        train(model, optimizer, rank, world_size)
        found[name] = results(model, optimizer)
    return found


def test_stepping_inside_backward_equals_one_process():
    for found in run_ranks(inside_backward, 2):
        for name, got in found.items():
            assert not differences(got, alone(name), 2e-5), name
