"""Objectives: oracles around an oracle, what they remember between steps, and the arithmetic that they share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fallline.core.errors import InvalidTypeError, InvalidValueError
from fallline.core.evaluate import RandomState
from fallline.core.oracle import Batch, Gradients, Oracle
from fallline.core.types import Params

__all__ = [
    "Objective",
    "Reduction",
    "at_least",
    "differentiable",
    "dot",
    "flat",
    "moved",
    "norm",
    "reduced",
    "replayed",
    "unflatten",
]

Reduction = Callable[[Tensor], Tensor]
"""The losses of examples, shape (examples,), to one number: ``term``, ``cvar``, ``chi_square_dro``, ... with their arguments bound."""


class Objective(Oracle):
    """An oracle around ``inner``, the same module and batch. What it remembers between steps is in ``state``, and moves in calls
    with ``statistics=True`` alone; save it with ``state_dict``.

    Unless a subclass says otherwise the loss is that of ``inner``, whatever is done to its gradient; ``changes`` says which of the
    two it is, so that nobody differentiates a loss in which the change is not.
    """

    changes: ClassVar[Literal["loss", "gradient"]] = "loss"

    def __init__(self, inner: Oracle) -> None:
        super().__init__(inner.module, inner.loss_of)
        self.inner, self.ranks = inner, inner.ranks
        self.state: dict[str, Tensor] = {}

    def loss(self, params: Params, batch: Batch, *, statistics: bool = False) -> Tensor:
        return self.inner.loss(params, batch, statistics=statistics)

    def outputs(self, params: Params, batch: Batch, *, statistics: bool = False) -> Tensor:
        return self.inner.outputs(params, batch, statistics=statistics)

    def losses(self, params: Params, batch: Batch, *, statistics: bool = False) -> Tensor:
        raise InvalidTypeError(
            f"{_name(self)} has no losses of single examples: it is made of the loss of a batch. Expected an oracle of a model inside a "
            f"reduction. Turn them round, as in sam(reduced(oracle, reduction))."
        )

    def num_examples(self, batch: Batch) -> int:
        return self.inner.num_examples(batch)

    def state_dict(self) -> dict[str, Tensor]:
        """What is remembered between steps, here and by the objectives inside (``inner.name``)."""
        inside = self.inner.state_dict() if isinstance(self.inner, Objective) else {}
        return {**{k: v.clone() for k, v in self.state.items()}, **{f"inner.{k}": v for k, v in inside.items()}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what ``state_dict`` returned."""
        if isinstance(self.inner, Objective):
            self.inner.load_state_dict({k[6:]: v for k, v in state.items() if k.startswith("inner.")})
        self.state = {k: v.clone() for k, v in state.items() if not k.startswith("inner.")}


def differentiable(oracle: Oracle, by: str) -> Oracle:
    """The oracle, or an error where its loss does not hold all of it: an objective inside that only changes the gradient."""
    inside = oracle
    while isinstance(inside, Objective):
        if inside.changes == "gradient":
            raise InvalidTypeError(
                f"{by} differentiates the loss of what is inside it, and {_name(inside)} changes the gradient alone, which would be "
                f"lost. Expected an oracle of a loss. Turn them round, as in sam({by}(oracle, ...))."
            )
        inside = inside.inner
    return oracle


def _name(objective: Objective) -> str:
    return type(objective).__name__.strip("_")


@contextmanager
def replayed(params: Params, start: RandomState) -> Iterator[None]:
    """A block whose random numbers (dropout masks) begin at ``start``; afterwards the random state is as before the block."""
    after = RandomState(params.values())
    start.restore()
    try:
        yield
    finally:
        after.restore()


def reduced(oracle: Oracle, reduction: Reduction) -> Objective:
    """The oracle of ``reduction(losses of the examples)`` in place of their mean.

    oracle = reduced(of_module(model, F.cross_entropy), lambda losses: term(losses, t=-2.0))
    """
    return _Reduced(oracle, reduction)


class _Reduced(Objective):
    def __init__(self, inner: Oracle, reduction: Reduction) -> None:
        super().__init__(inner)
        self.reduction = reduction

    def loss(self, params: Params, batch: Batch, *, statistics: bool = False) -> Tensor:
        return self.reduction(self.inner.losses(params, batch, statistics=statistics))


# -- arithmetic on dicts of tensors -----------------------------------------------------------------------------------------


def norm(tensors: Mapping[str, Tensor]) -> Tensor:
    """The Euclidean norm over all tensors, 0-d."""
    return torch.stack([torch.linalg.vector_norm(x) for x in tensors.values()]).norm()


def dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """The inner product over all tensors, 0-d."""
    return torch.stack([(a[n] * b[n]).sum() for n in a]).sum()


def moved(params: Params, by: Mapping[str, Tensor], times: float | Tensor = 1.0) -> Gradients:
    """The point ``params + times * by``, detached."""
    return {n: p.detach() + times * by[n] for n, p in params.items()}


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    """All numbers as one vector."""
    return torch.cat([x.flatten() for x in tensors.values()])


def unflatten(vector: Tensor, params: Params) -> Gradients:
    """A vector's numbers in the shapes of the parameters, in their order."""
    parts = torch.split(vector, [p.numel() for p in params.values()])
    return {n: part.view_as(p).to(p.dtype) for part, (n, p) in zip(parts, params.items(), strict=True)}


def at_least(name: str, value: float, low: float, *, above: bool = False, high: float = math.inf) -> float:
    """A finite number of at least ``low`` (or above it) and at most ``high``, or an error that says so."""
    good = (value > low if above else value >= low) and value <= high and math.isfinite(value)
    if not good:
        bounds = f"{'above' if above else 'of at least'} {low:g}" + (
            f" and at most {high:g}" if high < math.inf else ""
        )
        raise InvalidValueError(
            f"{name} is {value!r}. Expected a finite number {bounds}. Pass for example {name}={_example(low, high)}."
        )
    return float(value)


def _example(low: float, high: float) -> str:
    return f"{low + min(0.5, (high - low) / 2):g}"
