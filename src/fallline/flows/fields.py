"""Losses and vector fields of one flat vector, and the derivatives that flows are made of, by automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from torch import Tensor
from torch.func import grad, jacrev, vjp

from fallline.core.oracle import Batch, Oracle

__all__ = ["Field", "FlatLoss", "Loss", "flat_loss", "gradient", "hvp", "top_eigenpairs"]

Loss: TypeAlias = Callable[[Tensor], Tensor]
"""A smooth function of a vector, shape (d,), to a number."""

Field: TypeAlias = Callable[[Tensor], Tensor]
"""The velocity at a point, shape (d,) to (d,). A field that depends on time has time among its coordinates."""


@dataclass(frozen=True)
class FlatLoss:
    """An oracle's loss on one batch as a function of one vector: all parameters, one after the other, in float64."""

    oracle: Oracle
    batch: Batch
    start: Tensor
    """The module's parameters, shape (d,)."""

    def __call__(self, theta: Tensor) -> Tensor:
        return self.oracle.loss(self.split(theta), self.batch)

    def split(self, theta: Tensor) -> dict[str, Tensor]:
        """The vector cut into named parameters."""
        params = self.oracle.params
        parts = theta.split([p.numel() for p in params.values()])
        return {name: x.view_as(p) for (name, p), x in zip(params.items(), parts, strict=True)}


def flat_loss(oracle: Oracle, batch: Batch) -> FlatLoss:
    """The loss of a module on a fixed batch as a function of one vector. Put module and batch in float64 first: ``model.double()``."""
    return FlatLoss(oracle, batch, torch.cat([p.detach().flatten() for p in oracle.params.values()]))


def gradient(loss: Loss) -> Field:
    """The gradient of a loss as a field."""
    return cast(Field, grad(loss))


def hvp(loss: Loss, theta: Tensor, v: Tensor) -> Tensor:
    """The Hessian of a loss times v: the gradient's pull-back, the Hessian being symmetric. (Forward mode takes seconds to load.)"""
    return cast(Tensor, vjp(grad(loss), theta)[1](v)[0])


def top_eigenpairs(loss: Loss, theta: Tensor, k: int | None = None) -> tuple[Tensor, Tensor]:
    """Eigenvalues of the Hessian, largest first, and eigenvectors as columns; the k largest, or all. From the dense Hessian."""
    values, vectors = torch.linalg.eigh(jacrev(grad(loss))(theta))
    order = torch.arange(len(values) - 1, -1, -1)[:k]
    return values[order], vectors[:, order]
