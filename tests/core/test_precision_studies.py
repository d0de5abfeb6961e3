"""Studies of state formats on a real task; docs/precision.md holds their numbers."""

import dataclasses

import pytest
import torch

from fallline import Optimizer
from fallline.lab.run import schedule
from fallline.lab.streams import batch_indices, seeded
from fallline.methods import adam
from fallline.tasks import evaluate, fetch, load

STEPS, BATCH_SIZE, SEEDS = 100, 16, (0, 1, 2)
RUNS = {"float32": {}, "control": {}, "bfloat16": {"state_format": "bfloat16"}, "8bit": {"state_format": "8bit"}}
"""The control is float32 from initial weights changed by a part in a million: how far chance alone leads."""


def final_loss(data_seed, lr, jitter, **running):
    """Validation loss on shakespeare-gpt after a short run with the lab's streams and schedule."""
    task = dataclasses.replace(load("shakespeare-gpt"), batch_size=BATCH_SIZE)
    with seeded(data_seed, "init"):
        model = task.model()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 + jitter)
    optimizer = Optimizer(model, adam(lr=lr * schedule(STEPS)), **running)
    for t in range(1, STEPS + 1):
        optimizer.zero_grad()
        task.loss(model, fetch(task.train, batch_indices(data_seed, t, BATCH_SIZE, len(task.train)))).backward()
        optimizer.step()
    return evaluate(task, model)


def paired(lr):
    """Final losses relative to float32's of the same seed, minus one, for every run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    losses = {name: [] for name in RUNS}
    try:
        for name, running in RUNS.items():
            for seed in SEEDS:
                losses[name].append(final_loss(seed, lr, 1e-6 * (name == "control"), **running))
                change = losses[name][-1] / losses["float32"][seed] - 1
                print(f"lr {lr}  {name:8}  seed {seed}  {losses[name][-1]:.4f}  {change:+.3%}", flush=True)
    finally:
        torch.set_num_threads(before)
    return {name: [a / b - 1 for a, b in zip(found, losses["float32"], strict=True)] for name, found in losses.items()}


@pytest.mark.slow
@pytest.mark.parametrize("lr", [1e-3, 3e-3])
def test_compact_state_trains_a_transformer_as_float32_does(lr):
    """Adam, paired on three seeds: mean final losses of bfloat16 and 8-bit state within 1 % of float32's."""
    changes = paired(lr)
    means = {name: sum(found) / len(found) for name, found in changes.items()}
    assert means == pytest.approx(dict.fromkeys(RUNS, 0.0), abs=0.01)
