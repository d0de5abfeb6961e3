r"""How smooth a loss is along its own gradient: the measure by which batch normalisation was found to help.

At :math:`x - \eta g`, :math:`g = \nabla L(x)`, for a range of :math:`\eta` (Santurkar et al., arXiv:1805.11604, section 3.1): the loss,
the change of the gradient, and the effective smoothness :math:`\beta = \max_\eta \|\nabla L(x) - \nabla L(x - \eta g)\| / \|\eta g\|`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fallline.core.claims import claim
from fallline.core.oracle import Batch, Oracle, of_module
from fallline.core.types import Params
from fallline.nn.check import demand

__all__ = ["Smoothness", "along_gradient"]


@dataclass(frozen=True)
class Smoothness:
    """What the loss does along its gradient: one entry for each step size."""

    steps: tuple[float, ...]
    losses: tuple[float, ...]  # L(x - step g)
    changes: tuple[float, ...]  # ||grad L(x) - grad L(x - step g)||
    beta: float  # the largest change over distance

    @property
    def loss_range(self) -> float:
        """Largest minus smallest loss on the way."""
        return max(self.losses) - min(self.losses)


def along_gradient(oracle: Oracle, params: Params, batch: Batch, steps: Sequence[float]) -> Smoothness:
    """Loss and gradient of one batch at every step size along the gradient; parameters and buffers are left as they are.

    found = along_gradient(of_module(net, F.cross_entropy), dict(net.named_parameters()), batch, [0.1, 0.2, 0.4])
    """
    demand(
        len(steps) > 0 and all(s > 0 for s in steps),
        f"along_gradient() got steps={list(steps)!r}",
        "Expected positive step sizes",
        "Pass those of the learning rates you consider, as [0.05, 0.1, 0.2, 0.4]",
    )
    _, g = oracle.value_and_grad(params, batch)
    norm = sum(x.square().sum() for x in g.values()).sqrt()  # type: ignore[union-attr]
    losses, changes = [], []
    for step in steps:
        value, there = oracle.value_and_grad({name: p.detach() - step * g[name] for name, p in params.items()}, batch)
        losses.append(float(value))
        changes.append(float(sum((there[name] - g[name]).square().sum() for name in g).sqrt()))  # type: ignore[union-attr]
    beta = max(change / (step * float(norm)) for change, step in zip(changes, steps, strict=True))
    return Smoothness(tuple(steps), tuple(losses), tuple(changes), beta)


@claim(
    "along_gradient",
    "of a quadratic with curvature h the effective smoothness is h, the loss its parabola",
    where="arXiv:1805.11604, section 3.1",
)
def quadratic(lab):
    p = nn.Module()
    p.w = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    found = along_gradient(Oracle(p, lambda m, batch: 1.5 * m.w.square().sum()), {"w": p.w}, (), [0.1, 0.2])
    yield lab.equal(found.beta, 3.0)
    yield lab.equal(torch.tensor(found.losses), torch.tensor([1.5 * (2 - 0.6) ** 2, 1.5 * (2 - 1.2) ** 2]))


@claim(
    "along_gradient",
    "with batch norm the loss and its gradient change less along the gradient",
    where="arXiv:1805.11604, section 3.1, on digits",
)
def batch_norm_is_smoother(lab):
    """Means over 20 steps of gradient descent at 0.1, of six layers of ReLU. At He's initialisation itself, and in the effective
    smoothness, the difference is smaller, or none."""
    inputs, targets = lab.data("digits-mlp")
    plain, normed = (_range_and_change(inputs[:128], targets[:128], batch_norm) for batch_norm in (False, True))
    yield lab.less(2 * normed[0], plain[0])
    yield lab.less(2 * normed[1], plain[1])


def _range_and_change(inputs: Tensor, targets: Tensor, batch_norm: bool) -> tuple[float, float]:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(6):
        layers += [nn.Linear(32 if i else 64, 32), nn.BatchNorm1d(32) if batch_norm else nn.Identity(), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(32, 10)).double()
    for m in net:
        if isinstance(m, nn.Linear):
            nn.init.kaiming_normal_(m.weight)
    oracle = of_module(net, F.cross_entropy)
    found = []
    for _ in range(20):
        seen = along_gradient(oracle, oracle.params, (inputs, targets), [0.05, 0.1, 0.2, 0.4])
        found.append((seen.loss_range, max(seen.changes)))
        net.zero_grad()
        oracle.backward((inputs, targets))
        with torch.no_grad():
            for p in net.parameters():
                p.sub_(0.1 * p.grad)  # type: ignore[operator]
    ranges, changes = zip(*found, strict=True)
    return sum(ranges) / 20, sum(changes) / 20
