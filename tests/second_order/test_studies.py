"""Slow: what a step costs, and what it buys. docs/second_order.md has what was measured."""

import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fallline
from fallline import second_order as so
from fallline.core.oracle import of_module
from fallline.methods import adamw, sgd
from fallline.tasks import load

LM = so.levenberg_marquardt


def seconds(do):
    began = time.process_time()
    do()
    return time.process_time() - began


def ratio_to_backward(num_outputs, wrap, rounds):
    """The median over rounds of a step's processor time over that of forward and backward, side by side."""
    torch.manual_seed(0)
    layers = [nn.Linear(784, 640), nn.Tanh(), nn.Linear(640, 640), nn.Tanh(), nn.Linear(640, num_outputs)]
    model = nn.Sequential(*layers)
    x, criterion = torch.randn(128, 784), F.mse_loss if num_outputs == 1 else F.cross_entropy
    y = torch.randn(128, 1) if num_outputs == 1 else torch.randint(num_outputs, (128,))
    solver = wrap(of_module(model, criterion))

    def plain():
        model.zero_grad()
        criterion(model(x), y).backward()

    def step():
        model.zero_grad()
        solver.backward((x, y))

    plain(), step()
    return sorted(2 * seconds(step) / (seconds(plain) + seconds(plain)) for _ in range(rounds))[rounds // 2]


COSTS = {
    "egn, 1 output": (1, lambda o: so.egn(o, 1e-2), 15),
    "egn, 2 outputs": (2, lambda o: so.egn(o, 1e-2), 15),
    "egn, 10 outputs": (10, lambda o: so.egn(o, 1e-2), 5),
    "egn(num_samples=1), 10 outputs": (10, lambda o: so.egn(o, 1e-2, num_samples=1), 15),
    "kfac(every=10), 10 outputs": (10, lambda o: so.kfac(o, 1e-2), 21),
    "ekfac(every=10), 10 outputs": (10, lambda o: so.ekfac(o, 1e-2), 21),
    "newton_cg(max_products=10), 10 outputs": (10, lambda o: so.newton_cg(o, 1.0, tol=0.0, max_products=10), 5),
    "tngd(num_steps=10), 10 outputs": (10, lambda o: so.tngd(o, 1.0), 5),
}


@pytest.mark.slow
def test_what_a_step_costs():
    torch.set_num_threads(1)
    found = {name: ratio_to_backward(*case) for name, case in COSTS.items()}
    for name, ratio in found.items():
        print(f"{name}: {ratio:.2f} forward and backward passes")
    assert found["egn, 1 output"] < 3
    assert found["egn(num_samples=1), 10 outputs"] < 3.5


RUNS = {  # the best of the rates (or dampings) given, on each seed's last loss
    "adamw": [lambda m, o, lr=lr: (o, adamw(lr=lr)) for lr in (1e-2, 3e-2, 1e-1)],
    "egn": [lambda m, o, d=d: (so.egn(o, d), sgd(lr=0.3)) for d in (0.01, 0.1)],
    "egn(num_samples=1)": [lambda m, o, d=d: (so.egn(o, d, num_samples=1), sgd(lr=0.3)) for d in (0.01, 0.1)],
    "egn, levenberg_marquardt, whole steps": [lambda m, o: (so.egn(o, LM(1.0)), sgd(lr=1.0))],
    "kfac": [lambda m, o, lr=lr: (so.kfac(o, 1e-2), sgd(lr=lr)) for lr in (0.03, 0.1, 0.3)],
    "ekfac": [lambda m, o, lr=lr: (so.ekfac(o, 1e-2), sgd(lr=lr)) for lr in (0.03, 0.1, 0.3)],
}


def trained(make, seed, steps=60):
    """The loss over all digits after so many batches of 64."""
    data = load("digits-mlp").train
    x, y = data.batch(torch.arange(len(data)))
    x = x.flatten(1)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    oracle, chain = make(model, of_module(model, F.cross_entropy))
    optimizer = fallline.Optimizer(model, chain)
    for _ in range(steps):
        drawn = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        oracle.backward((x[drawn], y[drawn]))
        optimizer.step()
    return float(F.cross_entropy(model(x), y).detach())


@pytest.mark.slow
def test_what_steps_buy():
    """arXiv:2405.14402 and 1503.05671: fewer steps than a first-order method."""
    torch.set_num_threads(1)
    found = {}
    for name, makes in RUNS.items():
        best = min(([trained(make, seed) for seed in range(3)] for make in makes), key=sum)
        found[name] = sum(best) / 3
        print(f"{name}: {found[name]:.4f}, seeds {[round(v, 4) for v in best]}")
    assert found["egn"] < found["adamw"]
