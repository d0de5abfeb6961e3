"""Studies of networks on real data; docs/nn.md holds their numbers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fallline import Optimizer, chain
from fallline.methods import nesterov
from fallline.nn import agc_rules, critical_, nf_resnet
from fallline.schedules import cosine, warmup
from fallline.tasks import load

WIDTHS, BATCH, STEPS, SEEDS = (16, 32), 1024, 150, (0, 1)
"""Of 6,000 images, so that the 150 steps are 26 epochs."""


class BatchNormBlock(nn.Module):
    """The normaliser-free block's twin: batch norm before each activation, no scales."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.stride = stride
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = None if inputs == outputs and stride == 1 else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x):
        h = torch.relu(self.norm1(x))
        pooled = F.avg_pool2d(h, self.stride, ceil_mode=True) if self.stride > 1 else h
        shortcut = x if self.shortcut is None else self.shortcut(pooled)
        return shortcut + self.second(torch.relu(self.norm2(self.first(h))))


def batch_norm_twin():
    a, b = WIDTHS
    stem = nn.Conv2d(1, a, 3, padding=1, bias=False)
    blocks = BatchNormBlock(a, a, 1), BatchNormBlock(a, b, 2)
    return nn.Sequential(
        stem, *blocks, nn.BatchNorm2d(b), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(b, 10)
    )


def fashion_error(kind, lr, clipping, seed):
    """Percent of validation images wrong after training on Fashion-MNIST at 7x7 pixels, with Nesterov and a cosine after warm-up."""
    task = load("fashion-cnn")
    (x, y), (held_out, labels) = task.train.tensors, task.valid.tensors
    x, held_out = F.avg_pool2d(x, 4), F.avg_pool2d(held_out, 4)
    torch.manual_seed(seed)
    net = batch_norm_twin() if kind == "batch norm" else nf_resnet(WIDTHS, 1, 10, inputs=1)
    method = nesterov(lr=lr * (warmup(STEPS // 10) >> cosine(STEPS - STEPS // 10)))
    rules = agc_rules(net, method, clipping) if kind == "clipped" else {"*": chain(method)}
    optimizer = Optimizer(net, rules, fuse="eager")
    draw = torch.Generator().manual_seed(seed)
    order = torch.cat([torch.randperm(len(x), generator=draw) for _ in range(STEPS * BATCH // len(x) + 1)])
    for batch in order[: STEPS * BATCH].split(BATCH):
        optimizer.zero_grad()
        F.cross_entropy(net(x[batch]), y[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        return 100 * float((net.eval()(held_out).argmax(1) != labels).double().mean())


@pytest.mark.slow
def test_a_clipped_normaliser_free_network_against_its_batch_norm_twin():
    """Equality was not found: in 26 epochs the twin is ahead by several points. See docs/nn.md for what was tried."""
    twin = [fashion_error("batch norm", 0.1, None, seed) for seed in SEEDS]
    clipped = [fashion_error("clipped", 1.0, 0.1, seed) for seed in SEEDS]
    gap = (sum(clipped) - sum(twin)) / len(SEEDS)
    print(f"wrong: batch norm {twin}, clipped {clipped}; gap {gap:.1f} points")
    assert gap < 12  # the paper: about 0
    assert max(clipped) < 40


@pytest.mark.slow
def test_two_hundred_layers_of_tanh_on_digits():
    """40 steps of Adam at the better of two rates, from a critical orthogonal start and from Xavier-uniform x 0.5."""
    task = load("digits-mlp")
    (x, y), (held_out, labels) = task.train.tensors, task.valid.tensors
    errors = {}
    for start in ("critical", "xavier"):
        for lr in (1e-4, 3e-4):
            torch.manual_seed(0)
            net = nn.Sequential(*(m for _ in range(200) for m in (nn.Linear(64, 64), nn.Tanh())), nn.Linear(64, 10))
            if start == "critical":
                critical_(net, torch.tanh, q=0.025)
            else:
                for layer in net:
                    if isinstance(layer, nn.Linear):
                        nn.init.xavier_uniform_(layer.weight, gain=0.5)
                        nn.init.zeros_(layer.bias)
            optimizer = torch.optim.Adam(net.parameters(), lr=lr, fused=True)
            for step in range(40):
                batch = torch.arange(64 * step, 64 * step + 64) % len(x)
                optimizer.zero_grad()
                F.cross_entropy(net(x[batch] - 0.3), y[batch]).backward()
                optimizer.step()
            with torch.no_grad():
                errors[start, lr] = 100 * float((net(held_out - 0.3).argmax(1) != labels).double().mean())
    print(errors)
    assert min(v for (start, _), v in errors.items() if start == "critical") < 15
    assert min(v for (start, _), v in errors.items() if start == "xavier") > 80
