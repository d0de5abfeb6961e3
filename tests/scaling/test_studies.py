"""Studies of a minute or two; docs/scaling.md holds what they measured."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fallline
from fallline.methods import adam, sgd
from fallline.scaling import BatchSizeScheduler, grow_batch, large_batch, mup, rescale
from fallline.schedules import constant, step_decay
from fallline.tasks import load

RATES = [2.0**k for k in range(-10, -3)]
SEEDS, STEPS, BATCH, BASE = 3, 60, 32, 64


def mlp(width):
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def train(width, lr, parametrisation, seed, data):
    x, y = data
    torch.manual_seed(seed)
    model = mlp(width)
    torch.manual_seed(seed + 1000)
    groups = mup(model, mlp(BASE)).groups(adam(lr)) if parametrisation == "mup" else model.named_parameters()
    optimizer = fallline.Optimizer(groups, adam(lr))
    drawn = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        i = torch.randint(len(x), (BATCH,), generator=drawn)
        optimizer.zero_grad()
        F.cross_entropy(model(x[i]), y[i]).backward()
        optimizer.step()
    with torch.no_grad():
        return float(F.cross_entropy(model(x), y))


@pytest.mark.slow
def test_the_best_rate_stays_under_mup_and_moves_without():
    task = load("digits-mlp")
    data = task.train.batch(torch.arange(len(task.train)))
    best = {}
    for width, parametrisation in (
        (BASE, "standard"),
        (1024, "mup"),
        (1024, "standard"),
    ):  # at the base width both are one
        losses = [sum(train(width, lr, parametrisation, s, data) for s in range(SEEDS)) / SEEDS for lr in RATES]
        best[width, parametrisation] = RATES[losses.index(min(losses))]
        print(width, parametrisation, [f"{loss:.4f}" for loss in losses], f"best {best[width, parametrisation]:g}")
    home = best[BASE, "standard"]
    assert 0.5 <= best[1024, "mup"] / home <= 2
    assert home / best[1024, "standard"] >= 4


# -- batch sizes -----------------------------------------------------------------------------------------------------------


def epochs(chain, batch_size, num_steps, seed, task):
    """Train the task's model for that many steps; the final training loss and validation error in percent."""
    torch.manual_seed(seed)
    model = task.model()
    optimizer = fallline.Optimizer(model, chain)
    batches = BatchSizeScheduler(len(task.train), batch_size, micro_batch=len(task.train), seed=seed)
    done = 0
    while done < num_steps:
        for step in batches.steps(task.train.batch(torch.tensor(i)) for i in batches):
            for batch, weight in step:
                optimizer.zero_grad()
                (weight * task.loss(model, batch)).backward()
            optimizer.step()
            done += 1
            if done == num_steps:
                break
    with torch.no_grad():
        train, valid = (d.batch(torch.arange(len(d))) for d in (task.train, task.valid))
        return float(task.loss(model, train)), float(task.metric.fn(model, valid))


def mean(pairs):
    return [sum(values) / len(values) for values in zip(*pairs, strict=True)]


@pytest.mark.slow
def test_growing_the_batch_does_what_decay_does():
    task = load("digits-mlp")
    schedule, steps, batch = 0.1 * step_decay(300, 0.2), 900, 32
    traded = grow_batch(schedule, steps, batch, most=800)
    chains = {
        "decay": (sgd(lr=schedule, momentum=0.9), batch, steps),
        "growth": (sgd(lr=traded.lr, momentum=0.9), traded.batch, traded.num_steps),
        "neither": (sgd(lr=0.1, momentum=0.9), batch, steps),
    }
    found = {name: mean(epochs(*run, seed, task) for seed in range(8)) for name, run in chains.items()}
    print({name: (f"{loss:.5f}", f"{error:.2f} %", chains[name][2]) for name, (loss, error) in found.items()})
    assert traded.num_steps < 0.5 * steps
    assert abs(found["growth"][1] - found["decay"][1]) < 0.5
    assert abs(found["growth"][0] / found["decay"][0] - 1) < 0.25
    assert found["decay"][0] < 0.75 * found["neither"][0]


@pytest.mark.slow
def test_the_rules_bring_a_batch_four_times_as_large_nearer_to_the_small_one():
    task = load("digits-mlp")
    small, steps, plain = 16, 480, sgd(lr=0.05, momentum=0.9)
    runs = {"sgd 16": (plain, small, steps), "adam 16": (adam(lr=1e-3), small, steps)}
    for k in (4, 16):  # at 16 linear scaling breaks down: 30 steps at a rate of 0.8
        at = f"{small * k}"
        runs |= {
            f"sgd {at} unscaled": (plain, small * k, steps // k),
            f"sgd {at} linear": (rescale(plain, small, small * k, "linear"), small * k, steps // k),
            f"sgd {at} linear, warm-up": (
                large_batch(plain, small, small * k, "linear", steps // k // 3, constant()), small * k, steps // k,
            ),
        }  # fmt: skip
    runs |= {
        "adam 64 unscaled": (adam(lr=1e-3), 64, steps // 4),
        "adam 64 sqrt": (rescale(adam(lr=1e-3), small, 64, "sqrt"), 64, steps // 4),
        "adam 64 lr linear": (adam(lr=4e-3), 64, steps // 4),
    }
    found = {name: mean(epochs(*run, seed, task) for seed in range(4)) for name, run in runs.items()}
    for name, (loss, error) in found.items():
        print(f"{name}: loss {loss:.4f}, error {error:.2f} %")

    def distance(name):
        return abs(found[name][0] - found[f"{name.split()[0]} 16"][0])

    assert distance("sgd 64 linear, warm-up") < distance("sgd 64 unscaled")
    assert distance("adam 64 sqrt") < min(distance("adam 64 unscaled"), 0.05)
    assert distance("sgd 256 linear") > distance("sgd 256 unscaled")
