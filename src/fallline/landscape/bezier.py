r"""Mode connectivity: a curve between two minima whose bend is trained so that the loss stays low all along it.

.. math:: \phi(t) = (1 - t)^2\,\theta_0 + 2 t (1 - t)\,\theta + t^2\,\theta_1, \qquad
          \min_\theta \; \mathbb{E}_{t \sim U(0, 1)} \, L(\phi(t))

Garipov et al., arXiv:1802.10026, section 3 (the quadratic Bezier curve).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import Parameter

from fallline.core.errors import InvalidValueError
from fallline.core.oracle import Oracle
from fallline.core.types import Params
from fallline.curvature.batches import Data
from fallline.landscape.drawing import axes_or_new
from fallline.landscape.paths import Path, path_of
from fallline.landscape.points import MeanLoss, mix, require_alike

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Bezier", "bezier", "connect"]

NUM = 21
"""Places at which a trained curve is evaluated."""


@dataclass(frozen=True)
class Bezier:
    """A quadratic Bezier curve between two points, the losses along it, and those along the straight line."""

    start: dict[str, Tensor]
    bend: dict[str, Tensor]
    end: dict[str, Tensor]
    path: Path
    straight: Path
    training_losses: Tensor  # (steps,), float64: of one batch at one random place each

    def at(self, t: float) -> dict[str, Tensor]:
        """The point at place t, from 0 to 1: a network to evaluate, or to average with others."""
        return bezier(self.start, self.bend, self.end, t)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Loss along the curve and along the line."""
        ax = axes_or_new(ax)
        for name, path, style in (("curve", self.path, "-"), ("straight line", self.straight, "--")):
            ax.plot(path.positions.numpy(), path.losses.numpy(), style, label=f"{name}: highest {path.highest:.3g}")
        ax.set(xlabel="place between the solutions", ylabel="loss")
        ax.legend(frameon=False)
        return ax


def connect(
    oracle: Oracle,
    data: Data,
    start: Params,
    end: Params,
    *,
    steps: int = 300,
    optimizer: Callable[[list[Parameter]], torch.optim.Optimizer] | None = None,
    seed: int = 0,
) -> Bezier:
    """Train the bend of a Bezier curve between two minima, from the middle of the line; each step takes one batch and one random place.

    connect(oracle, loader, first, second, optimizer=partial(fallline.optim.AdamW, lr=3e-3)).plot()

    Args:
        start: one minimum: the trainable parameters, as ``snapshot(oracle)`` takes them.
        end: the other one.
        optimizer: makes an optimizer of the list of tensors of the bend; torch's Adam at 1e-2 by default.
        seed: of the places.

    Buffers in the points do not count: batch normalisation uses each batch's own statistics, for no running ones belong to the places of a curve.
    """
    if steps < 1:
        raise InvalidValueError(f"connect() got steps={steps}. Expected at least 1. Some hundred are common.")
    require_alike(start, end)
    missing = [name for name in oracle.params if name not in start]
    if missing:
        raise InvalidValueError(
            f"connect() got points without {missing[0]!r}. Expected all trainable parameters of the model. Take them by snapshot(oracle)."
        )
    start, end = ({name: point[name].detach().clone() for name in oracle.params} for point in (start, end))
    loss = MeanLoss(oracle, data, batch_statistics=True)
    bend = {name: Parameter(p) for name, p in mix(start, end, 0.5).items()}
    chosen = torch.optim.Adam(bend.values(), lr=1e-2) if optimizer is None else optimizer(list(bend.values()))
    places = torch.rand(steps, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
    seen = []
    with loss.mode():
        for t, (_, batch) in zip(places, islice(cycle(loss.batches), steps), strict=True):
            now = {name: p.detach() for name, p in bend.items()}
            value, gradients = oracle.value_and_grad(bezier(start, now, end, t), batch)
            for name, p in bend.items():
                p.grad = 2 * t * (1 - t) * gradients[name]
            chosen.step()
            seen.append(float(value))
    trained = {name: p.detach() for name, p in bend.items()}
    path = path_of(loss, lambda t: bezier(start, trained, end, t), NUM)
    straight = path_of(loss, lambda t: mix(start, end, t), NUM)
    return Bezier(start, trained, end, path, straight, torch.tensor(seen, dtype=torch.float64))


def bezier(start: Params, bend: Params, end: Params, t: float) -> dict[str, Tensor]:
    """The point of the curve at place t."""
    return {n: (1 - t) ** 2 * a + 2 * t * (1 - t) * bend[n] + t**2 * end[n] for n, a in start.items()}
