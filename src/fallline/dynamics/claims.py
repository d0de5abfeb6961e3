"""What papers say about the numbers that a watch takes; the checks of ``fallline claims --family dynamics``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import fallline.optim
from fallline.core.claims import claim
from fallline.core.oracle import of_loss
from fallline.dynamics.motion import motion
from fallline.dynamics.record import Record
from fallline.dynamics.watching import watch

__all__: list[str] = []

LARGEST = 10.0
"""The largest curvature of the quadratic below."""


def _weights(d: int) -> Tensor:
    return torch.randn(d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _moved(w: Tensor, step: Callable[[nn.Parameter], None]) -> dict[str, float]:
    """What ``motion`` says of a step that changes the parameter in place."""
    p = nn.Parameter(w.clone())
    step(p)
    return motion({"w": w}, {"w": p})


@claim(
    "motion",
    "the turn of a weight is the angle between it before and after the step, however small, and its growth does not count",
    where="arXiv:2006.08419, definition 1",
)
def turn_is_the_angle(lab):
    w, v = _weights(50), torch.randn(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    across = v - (v @ w) / (w @ w) * w
    across *= w.norm() / across.norm()
    for angle in (1e-3, 0.03, 0.5, 2.0):
        for growth in (0.999, 1.0, 1.001):
            end = growth * (math.cos(angle) * w + math.sin(angle) * across)
            found = motion({"w": w}, {"w": nn.Parameter(end)})["turn/w"]
            yield lab.ratio(found, angle, equals=1, rtol=1e-3)  # copies are kept in float32


@claim(
    "motion",
    "weights whose scale does not matter, under SGD with weight decay, turn in equilibrium by sqrt(2 lr decay) a step, whatever the gradient's size",
    where="arXiv:2006.08419, equilibrium of SGD",
)
def equilibrium_turn(lab):
    lr, decay = 0.1, 0.2
    for size in (0.1, 10.0):
        made, w = torch.Generator().manual_seed(2), _weights(400) / 20
        for _ in range(150):
            before, noise = w, torch.randn(400, generator=made, dtype=torch.float64)
            across = noise - (noise @ w) / (w @ w) * w
            g = size * across / across.norm() / w.norm()  # orthogonal to w, and as large as w is small
            w = w - lr * (g + decay * w)
        yield lab.ratio(
            motion({"w": before}, {"w": nn.Parameter(w)})["turn/w"], math.sqrt(2 * lr * decay), equals=1, rtol=0.02
        )


@claim(
    "motion",
    "a step of sign descent has the length lr sqrt(d), so that the update ratio does not depend on the gradient's size",
    where="arXiv:1802.04434, algorithm 1",
)
def ratio_of_sign_descent(lab):
    w, lr = _weights(64), 1e-2
    for size in (1e-4, 1.0, 1e4):

        def step(p: nn.Parameter, size: float = size) -> None:
            with torch.no_grad():
                p.sub_(lr * (size * _weights(64)).sign())

        yield lab.ratio(_moved(w, step)["update_ratio"], lr * 8 / float(w.norm()), equals=1, rtol=1e-5)


def _watched(optimizer_of: Callable[[nn.Module], Any], steps: int) -> Record:
    """A watched run on a quadratic of curvatures 1 to 10."""
    model = nn.Linear(4, 1, bias=False).double()
    curvatures = torch.linspace(1, LARGEST, 4, dtype=torch.float64)
    with torch.no_grad():
        model.weight.fill_(1.0)
    oracle = of_loss(model, lambda model, batch: (model.weight.square() * curvatures).sum() / 2 + 0 * batch[0].sum())
    batch, optimizer = (torch.zeros(2, dtype=torch.float64),), optimizer_of(model)
    watching = watch(model, optimizer, oracle, every=10)
    for _ in range(steps):
        watching.see(optimizer.step(oracle.closure(batch)), batch)
    return watching.finish()


@claim(
    "watch",
    "gradient descent is stable up to a sharpness of 2 / lr: a share below 1 has a loss that falls, one above 1 a loss that rises",
    where="arXiv:2103.00065, section 2",
)
def threshold_of_descent(lab):
    for share in (0.9, 1.1):
        lr = share * 2 / LARGEST
        record = _watched(lambda model, lr=lr: fallline.optim.SGD(model.parameters(), lr=lr), 30)
        yield lab.close(record.series("threshold").last, 2 / lr, rtol=1e-6)
        yield lab.ratio(record.series("share").last, share, equals=1, rtol=1e-6)
        first, last = record.series("loss").values[0], record.series("loss").last
        yield lab.less(last, first) if share < 1 else lab.less(first, last)


@claim(
    "watch",
    "Adam's threshold is (2 + 2 b1) / ((1 - b1) lr) for the preconditioned sharpness, 38 / lr at b1 = 0.9",
    where="arXiv:2207.14484",
)
def threshold_of_adam(lab):
    for b1, times in ((0.9, 38.0), (0.0, 2.0)):
        record = _watched(lambda model, b1=b1: fallline.optim.Adam(model.parameters(), lr=1e-3, betas=(b1, 0.999)), 3)
        yield lab.close(record.series("threshold").last, times / 1e-3, rtol=1e-6)
        yield lab.less(0.0, record.series("share").last)
