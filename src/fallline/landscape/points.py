"""Points of the landscape: named tensors, what lies between them, and the mean loss at any of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fallline.core.errors import InvalidValueError, unknown
from fallline.core.oracle import Gradients, Oracle
from fallline.core.types import Params
from fallline.curvature.batches import Data, deterministic, own_params, weighted

__all__ = ["MeanLoss", "mix", "moved", "require_alike", "snapshot", "trainable"]

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def snapshot(oracle: Oracle, *, buffers: bool = False) -> dict[str, Tensor]:
    """A copy of the oracle's trainable parameters: a point that later training does not move.

    ``buffers`` adds the module's buffers, such as the running statistics of batch normalisation, which belong to a point that is to be
    permuted or repaired.
    """
    found = {name: p.detach().clone() for name, p in oracle.params.items()}
    if buffers:
        found |= {name: b.detach().clone() for name, b in oracle.module.named_buffers()}
    return found


def mix(start: Params, end: Params, t: float) -> dict[str, Tensor]:
    r""":math:`(1 - t)\,\theta_0 + t\,\theta_1`; tensors of integers (counters) are those of the start."""
    require_alike(start, end)
    return {name: a.lerp(end[name], t) if a.is_floating_point() else a for name, a in start.items()}


def moved(point: Params, directions: Sequence[Params], amounts: Sequence[float]) -> dict[str, Tensor]:
    r""":math:`\theta + \sum_i a_i d_i`; tensors that a direction does not name stay."""
    found = {name: p.detach() for name, p in point.items()}
    for direction, amount in zip(directions, amounts, strict=True):
        for name, d in direction.items():
            if name not in found:
                raise unknown("tensor in a direction", name, found, "A direction names tensors of its point.")
            found[name] = found[name] + amount * d
    return found


def require_alike(a: Params, b: Params) -> None:
    """Raise unless two points have the same names and shapes."""
    for name in [*a, *b]:
        seen = [tuple(x[name].shape) if name in x else None for x in (a, b)]
        if seen[0] != seen[1]:
            texts = ["absent" if s is None else f"of shape {s}" for s in seen]
            raise InvalidValueError(
                f"Two points differ in {name!r}: it is {texts[0]} in one and {texts[1]} in the other. Expected the same tensors in "
                f"both. Take both by snapshot() from models of one architecture."
            )


def trainable(oracle: Oracle, params: Params | None, what: str) -> dict[str, Tensor]:
    """The point, which must name trainable parameters alone: the oracle's own by default."""
    point, known = own_params(oracle, params), oracle.params
    stray = [name for name in point if name not in known]
    if stray:
        raise InvalidValueError(
            f"{what} got a point with {stray[0]!r}, which is no trainable parameter of the model. Expected parameters alone, for all "
            f"that is named is moved. Load buffers into the model, and pass snapshot(oracle)."
        )
    return point


class MeanLoss:
    """The mean loss over all data as a function of a point, the model in evaluation mode; nothing of it changes.

    ``batch_statistics`` lets batch normalisation use each batch's own mean and variance, as in training: away from a trained point
    the running statistics are those of another network.
    """

    def __init__(self, oracle: Oracle, data: Data, batch_statistics: bool = False) -> None:
        self.oracle, self.batch_statistics = oracle, batch_statistics
        self.batches = weighted(oracle, data)

    def __call__(self, point: Params) -> float:
        with torch.no_grad(), self.mode():
            return sum(w * float(self.oracle.loss(point, batch)) for w, batch in self.batches)

    def gradient(self, point: Params) -> tuple[float, Gradients]:
        """The loss and its gradient."""
        value, total = 0.0, {name: torch.zeros_like(p) for name, p in point.items()}
        with self.mode():
            for w, batch in self.batches:
                loss, gradients = self.oracle.value_and_grad(point, batch)
                value += w * float(loss)
                for name, g in gradients.items():
                    total[name] += w * g
        return value, total

    @contextmanager
    def mode(self) -> Iterator[None]:
        """The mode that losses are taken in."""
        with deterministic(self.oracle.module):
            for module in self.oracle.module.modules():
                if self.batch_statistics and isinstance(module, _BATCH_NORMS):
                    module.train()
            yield
