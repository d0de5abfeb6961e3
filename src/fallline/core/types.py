"""The vocabulary of the project: state, hyperparameters, how far a step looks, and where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple, TypeAlias

from torch import Tensor

from fallline.core.schedule import Schedule

__all__ = ["At", "Hyper", "Params", "Reach", "Schedule", "State"]

State: TypeAlias = dict[str, Tensor]
"""Slot name -> tensor, for one parameter."""

Params: TypeAlias = Mapping[str, Tensor]
"""Parameter name -> tensor."""

Hyper: TypeAlias = float | Tensor | Schedule
"""A hyperparameter: a number, a 0-d tensor or a schedule; a number or 0-d tensor by the time ``update`` runs."""


class Reach(IntEnum):
    """How far one output element of a step looks. Tests and the executor read it; a step declares it."""

    ELEMENT = 0  # itself: any slice, any shape, any shard
    TENSOR = 1  # the whole tensor, whatever its shape (norms, means)
    MATRIX = 2  # the whole tensor and its shape (Muon, Shampoo, Adafactor)
    GROUP = 3  # a sum over all tensors (global norm, DoG, Prodigy)


class At(NamedTuple):
    """Where a step stands; tensors are in compute precision (float32 for half-precision parameters)."""

    p: Tensor  # the parameter
    g: Tensor  # its raw gradient
    t: int | Tensor  # the parameter's step, counted from 1
    loss: Tensor | None = None  # the loss at p, for steps that declare needs = {"loss"}
    total: Tensor | None = None  # the sum of measure() over all tensors, for steps of reach GROUP
    totals: tuple[Tensor, ...] = ()  # the same where measure() returns several numbers, as a 1-d tensor
    calls: int | None = None  # calls of step(), where ``t`` lies on a device

    @property
    def turn(self) -> int | Tensor:
        """The step, to decide when dear work is due: on a device that of calls, refused steps included, which need not be read."""
        return self.t if self.calls is None else self.calls
