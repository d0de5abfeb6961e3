"""What all solvers share: any optimizer takes their step, state resumes, nothing moves outside of a step, ranks agree."""

import copy

import pytest
import torch
from curved import SOLVERS, data, direction, mlp, softmax
from torch.nn.parallel import DistributedDataParallel

import fallline
from fallline.methods import sgd
from fallline.transforms import clip_by_global_norm
from ranks import run_ranks


@pytest.mark.parametrize("name", SOLVERS)
def test_backward_writes_the_step(name):
    oracle = softmax(mlp())
    solver = SOLVERS[name](oracle)
    expected = direction(SOLVERS[name](oracle), data())
    value = solver.backward(data())
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in oracle.params.values()]), expected)
    torch.testing.assert_close(value, oracle.loss(oracle.params, data()).detach())


RULED = {"adafisher", "sophia_g"}  # their steps have scales of their own, for which a rate of one means nothing


@pytest.mark.parametrize("name", sorted(set(SOLVERS) - RULED))
def test_it_trains_faster_than_descent(name):
    def trained(wrap, lr):
        model = mlp()
        oracle = softmax(model)
        solver = wrap(oracle)
        optimizer = fallline.Optimizer(model, fallline.chain(clip_by_global_norm(1.0), sgd(lr=lr)))
        for _ in range(10):
            optimizer.zero_grad()
            value = solver.backward(data(30))
            optimizer.step()
        return float(value)

    assert trained(SOLVERS[name], 1.0) < trained(lambda oracle: oracle, 1.0) - 0.01


@pytest.mark.parametrize("name", SOLVERS)
def test_resuming_changes_nothing(name):
    def run(steps, solver, model, first=0):
        for i in range(first, first + steps):
            model.zero_grad()
            solver.backward(data(seed=i))
            with torch.no_grad():
                for p in model.parameters():
                    p.sub_(p.grad, alpha=0.1)

    model = mlp()
    solver = SOLVERS[name](softmax(model))
    run(3, solver, model)
    twin = copy.deepcopy(model)
    again = SOLVERS[name](softmax(twin))
    again.load_state_dict(solver.state_dict())
    run(2, solver, model, 3)
    run(2, again, twin, 3)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("name", SOLVERS)
def test_looking_changes_nothing(name):
    solver = SOLVERS[name](softmax(mlp()))
    before, random = solver.state_dict(), torch.get_rng_state()
    weights = copy.deepcopy(solver.module.state_dict())
    direction(solver, data())
    assert {k: v.tolist() for k, v in solver.state_dict().items()} == {k: v.tolist() for k, v in before.items()}
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(v, weights[k]) for k, v in solver.module.state_dict().items())
    assert all(p.grad is None for p in solver.module.parameters())


@pytest.mark.parametrize("name", SOLVERS)
def test_a_bad_batch_is_a_refused_step(name):
    model = mlp()
    solver = SOLVERS[name](softmax(model))
    optimizer = fallline.Optimizer(model, sgd(lr=1.0))
    before = copy.deepcopy(model.state_dict())
    x, y = data()
    optimizer.zero_grad()
    solver.backward((x * float("inf"), y))
    optimizer.step()
    assert optimizer.num_skipped == 1
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("name", SOLVERS)
def test_single_precision_is_near_double(name):
    model = mlp()
    exact = direction(SOLVERS[name](softmax(model)), data(30))
    x, y = data(30)
    found = direction(SOLVERS[name](softmax(copy.deepcopy(model).float())), (x.float(), y))
    assert found.dtype == torch.float32
    assert (found.double() - exact).norm() < 2e-3 * exact.norm()


def test_damping_can_be_set():
    solver = SOLVERS["egn"](softmax(mlp()))
    solver.damping = 0.25
    assert solver.state_dict()["damping"] == 0.25
    with pytest.raises(ValueError, match="damping is -1"):
        solver.damping = -1


def on_rank(rank, world_size):
    solver = SOLVERS["kfac"](softmax(DistributedDataParallel(mlp())))
    for _ in range(2):
        solver.module.zero_grad()
        solver.backward(tuple(x.chunk(world_size)[rank] for x in data()))
    return torch.cat([p.grad.flatten() for p in solver.module.parameters()]), solver.state_dict()


def test_ranks_of_kfac_share_factors_and_step():
    (g, state), (h, other) = run_ranks(on_rank, 2)
    assert torch.equal(g, h)
    assert all(torch.equal(v, other[k]) for k, v in state.items())
    parts = [kfac_a(tuple(x.chunk(2)[i] for x in data())) for i in range(2)]
    torch.testing.assert_close(state["0.a"], (parts[0] + parts[1]) / 2)


def kfac_a(batch):
    solver = SOLVERS["kfac"](softmax(mlp()))
    direction(solver, batch, statistics=True)
    return solver.state["0.a"]
