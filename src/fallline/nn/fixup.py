r"""Fixup: residual networks without normalisation, by initialisation alone (Zhang et al., arXiv:1901.09321).

1. The last layer, and the last layer of every residual branch, start at 0.
2. The other weights of a branch of m layers are drawn as He et al. do and multiplied by :math:`L^{-1/(2m-2)}`, L the number of branches.
3. Scalar biases stand before every layer and activation, a scalar multiplier at the end of every branch: ``Shift`` and ``Scale``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fallline.core.claims import claim
from fallline.nn.check import demand
from fallline.nn.init import WEIGHTED

__all__ = ["FixupBlock", "Scale", "Shift", "fixup_"]


class Shift(nn.Module):
    """Add one trained number, at first 0."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class Scale(nn.Module):
    """Multiply by one trained number, at first 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class FixupBlock(nn.Module):
    """A basic residual block with Fixup's scalars: two 3x3 convolutions, (batch, channels, height, width) to (batch, outputs, ...).

    Where the shape changes, the shortcut is a 1x1 convolution of the shifted input. Call ``fixup_`` on the finished network.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            Shift(),
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            Shift(),
            nn.ReLU(),
            Shift(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            Scale(),
            Shift(),
        )
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(self.branch[0](x))
        return torch.relu(shortcut + self.branch(x))


@torch.no_grad()
def fixup_(model: nn.Module, branches: Sequence[nn.Module], head: nn.Module) -> nn.Module:
    """Initialise a residual network by rules 1 and 2: ``branches`` are its residual branches, ``head`` its last layer.

    fixup_(net, [m.branch for m in net.modules() if isinstance(m, FixupBlock)], net.fc)

    Layers outside of branches are drawn as He et al. do. Raises ValueError for a branch of fewer than two layers.
    """
    demand(
        bool(branches),
        "fixup_() got no residual branches",
        "Expected at least one",
        "Pass those of the model, in any order",
    )
    demand(isinstance(head, WEIGHTED), f"fixup_() got {type(head).__name__} as head", "Expected the last linear or convolutional layer", "Pass for example model.fc")  # fmt: skip
    for layer in _layers(model):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    for branch in branches:
        found = _layers(branch)
        demand(
            len(found) >= 2,
            f"fixup_() got a branch of {len(found)} linear or convolutional layers",
            "Expected two or more: the exponent -1/(2m - 2) has no value for one",
            "Use skip_init(branch) or rezero(branch) for such branches",
        )
        for layer in found[:-1]:
            layer.weight.mul_(len(branches) ** (-1 / (2 * len(found) - 2)))
        nn.init.zeros_(found[-1].weight)
    nn.init.zeros_(head.weight)  # type: ignore[arg-type]
    return model


def _layers(module: nn.Module) -> list[nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d]:
    return [m for m in module.modules() if isinstance(m, WEIGHTED)]


@claim("fixup_", "inner weights have He's variance times L^(-1/(m-1)); every block is the identity at first", where="arXiv:1901.09321, section 3")  # fmt: skip
def variances(lab):
    torch.manual_seed(0)
    blocks = [FixupBlock(8, 8) for _ in range(16)]
    net = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(8 * 36, 4)).double()
    fixup_(net, [b.branch for b in blocks], net[-1])
    weights = torch.cat([b.branch[1].weight.flatten() for b in blocks])
    yield lab.close(weights.detach().var(), 2 / (8 * 9) / 16, rtol=0.05)
    x = torch.rand(2, 8, 6, 6, dtype=torch.float64)  # positive: the block ends in ReLU
    yield lab.equal(net[:-2](x).detach(), x)
    yield lab.close(1 + net(x).detach(), 1.0, rtol=1e-15)


@claim("fixup_", "a step of SGD changes the outputs by an amount that does not grow with depth", where="arXiv:1901.09321, section 3")  # fmt: skip
def step_size(lab):
    """Change of the outputs per unit of learning rate, with a head that is not zero, so that branches learn at the first step.
    Without rule 2 it grows like the number of branches."""
    yield lab.less(_change(64) / _change(4), 2.0)
    yield lab.less(4.0, _change(64, rule_2=False) / _change(4, rule_2=False))


def _change(depth: int, rule_2: bool = True) -> float:
    torch.manual_seed(0)
    net = _Stack(depth).double()
    fixup_(net, list(net.branches), net.head)
    nn.init.normal_(net.head.weight, std=0.25)
    if not rule_2:
        with torch.no_grad():
            for branch in net.branches:
                branch[0].weight.mul_(depth**0.5)  # type: ignore[index]
    net.head.requires_grad_(False)
    x, target = torch.randn(32, 16, dtype=torch.float64), torch.randn(32, 4, dtype=torch.float64)
    before = net(x)
    (before - target).square().mean().backward()
    lr = 1e-6
    with torch.no_grad():
        for p in net.branches.parameters():
            p.sub_(lr * p.grad)  # type: ignore[operator]
    return float((net(x) - before).detach().norm()) / lr


class _Stack(nn.Module):
    """Residual branches of two layers on vectors of 16, and a head."""

    def __init__(self, depth: int) -> None:
        super().__init__()

        def branch() -> nn.Module:
            return nn.Sequential(nn.Linear(16, 16, bias=False), nn.ReLU(), nn.Linear(16, 16, bias=False))

        self.branches = nn.ModuleList(branch() for _ in range(depth))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        for branch in self.branches:
            x = x + branch(x)
        return self.head(x)
