"""Distributed data parallel: one mean over ranks for each backward. Half precision: autocast, and GradScaler."""

import copy

import pytest
import torch
from nets import OBJECTIVES, cross_entropy, data, net
from torch.nn.parallel import DistributedDataParallel

from fallline import objectives as obj
from fallline.core.oracle import of_module
from ranks import run_ranks

# -- ranks ------------------------------------------------------------------------------------------------------------------

NAMES = ("sam", "term", "constrained", "bloop", "several")


def part(rank, world_size):
    return tuple(x.chunk(world_size)[rank] for x in data())


def on_rank(rank, world_size):
    found = {}
    for name in NAMES:
        model = DistributedDataParallel(net().eval())
        objective = OBJECTIVES[name](cross_entropy(model))
        counted = count_reductions(objective)
        for _ in range(2):
            model.zero_grad()
            objective.backward(part(rank, world_size))
        gradients = {n.removeprefix("module."): p.grad for n, p in model.named_parameters()}
        found[name] = gradients, objective.state_dict(), counted["calls"]
    return found


def count_reductions(objective):
    import torch.distributed as dist

    counted, all_reduce = {"calls": 0}, dist.all_reduce

    def counting(*args, **kwargs):
        counted["calls"] += 1
        return all_reduce(*args, **kwargs)

    dist.all_reduce = counting
    return counted


def mean_of_parts(name):
    """The mean of what each part alone gives."""
    grads = []
    for rank in range(2):
        model = net().eval()
        objective = OBJECTIVES[name](cross_entropy(model))
        grads.append(objective.value_and_grad(objective.params, part(rank, 2))[1])
    return {n: (g + grads[1][n]) / 2 for n, g in grads[0].items()}


def test_ranks_agree_on_gradients_and_state():
    first, second = run_ranks(on_rank, 2)
    for name in NAMES:
        for n, g in first[name][0].items():
            assert torch.equal(g, second[name][0][n])
        for k, v in first[name][1].items():
            assert torch.equal(v, second[name][1][k])
    for name in ("sam", "term", "several"):  # no memory: the second backward is as the first
        for n, g in mean_of_parts(name).items():
            torch.testing.assert_close(first[name][0][n], g)


def plain_on_rank(rank, world_size):
    model = DistributedDataParallel(net().eval())
    oracle = cross_entropy(model)
    counted = count_reductions(oracle)
    oracle.backward(part(rank, world_size))
    return {n: p.grad for n, p in oracle.module.named_parameters()}, counted["calls"]


def test_a_plain_oracle_is_ddp_with_one_all_reduce():
    model = net().eval()
    cross_entropy(model).backward(data())
    for gradients, calls in run_ranks(plain_on_rank, 2):
        assert calls == 1
        for n, p in model.named_parameters():
            torch.testing.assert_close(gradients[n], p.grad)


# -- precision --------------------------------------------------------------------------------------------------------------

HALF = {name: OBJECTIVES[name] for name in ("sam", "gsam", "term", "several", "by_class", "finite_difference_penalty")}


@pytest.mark.parametrize("name", HALF)
def test_autocast_is_near_full_precision(name):
    model = net(torch.float32).eval()
    objective = HALF[name](cross_entropy(model))
    batch = data(96, dtype=torch.float32)
    exact = objective.value_and_grad(objective.params, batch)[1]
    with torch.autocast("cpu", torch.bfloat16):
        found = objective.value_and_grad(objective.params, batch)[1]
    assert all(g.dtype == torch.float32 for g in found.values())
    size = torch.stack([g.norm() for g in exact.values()]).norm()
    off = torch.stack([(g - found[n]).norm() for n, g in exact.items()]).norm()
    assert 0 < off < 0.05 * size


@pytest.mark.parametrize("name", HALF)
def test_a_scaler_leaves_the_same_gradients_once_unscaled(name):
    model = net().eval()
    twin = copy.deepcopy(model)
    HALF[name](cross_entropy(twin)).backward(data())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    value = HALF[name](cross_entropy(model)).backward(data(), scaler=scaler)
    assert value < 10
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, 2.0**16 * q.grad)
    before = [p.detach().clone() for p in model.parameters()]
    scaler.step(optimizer)
    scaler.update()
    for b, p, q in zip(before, model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, b - 0.1 * q.grad)


def test_a_scaler_keeps_small_gradients_of_float16_and_skips_what_overflows():
    def lossy(out, y):
        return (out.half() * 1e-2).square().sum() * 1e-6  # its gradient underflows in float16

    model = net(torch.float32).eval()
    batch = data(dtype=torch.float32)
    oracle = obj.sam(of_module(model, lossy), 0.05)
    lost = oracle.value_and_grad(oracle.params, batch)[1]
    assert all(float(g.abs().max()) == 0 for g in lost.values())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    oracle.backward(batch, scaler=scaler)
    assert max(float(p.grad.abs().max()) for p in model.parameters()) > 0

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)  # too large: nothing is written, the scale falls
    before = copy.deepcopy(model.state_dict())
    optimizer.zero_grad()
    oracle.backward(batch, scaler=scaler)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() < 2.0**100
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
