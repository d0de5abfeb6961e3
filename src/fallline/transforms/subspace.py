"""Subspaces of matrices in which state is kept: the leading singular vectors of a gradient, renewed now and then."""

from __future__ import annotations

import torch
from torch import Tensor

from fallline.core.errors import InvalidValueError

__all__ = ["basis", "check_density", "is_matrix", "like_side", "projected", "renewed", "shorter_side", "size_of"]


def is_matrix(p: Tensor) -> bool:
    """Whether a tensor has rows and columns; all dimensions after the first are columns."""
    return p.dim() > 1 and p.numel() > 0


def shorter_side(x: Tensor) -> Tensor:
    """As a matrix whose columns are the shorter side."""
    x = x.reshape(x.shape[0], -1)
    return x if x.shape[0] >= x.shape[1] else x.mT


def like_side(step: Tensor, p: Tensor) -> Tensor:
    """What ``shorter_side`` has turned, turned back into the shape of p."""
    return (step if p.shape[0] * p.shape[0] >= p.numel() else step.mT).reshape(p.shape)


def basis(p: Tensor, density: float) -> Tensor:
    """A slot for the basis of a matrix's subspace; a number for vectors."""
    if not is_matrix(p):
        return p.new_zeros(())
    short = shorter_side(p).shape[1]
    return torch.eye(short, size_of(density, short), dtype=p.dtype, device=p.device)  # if the first step is refused


def projected(p: Tensor, density: float) -> Tensor:
    """A slot for a matrix in coordinates of its subspace; a vector's is shaped like it."""
    if not is_matrix(p):
        return torch.zeros_like(p)
    long, short = shorter_side(p).shape
    return p.new_zeros(long, size_of(density, short))


def size_of(density: float, whole: int) -> int:
    """A share of a number of dimensions, at least one."""
    return min(whole, max(1, round(density * whole)))


def renewed(q: Tensor, g: Tensor, t: int | Tensor, gap: int) -> Tensor:
    """The first right singular vectors of g as the columns of q, found in the first step and every ``gap`` steps after it.

    Their signs, which are the solver's choice, are those that go with the vectors before them.
    """
    due = (t - 1) % gap == 0
    if due is False:
        return q
    g = g.nan_to_num()  # of steps that will not be taken
    g = g / g.abs().amax().clamp(min=torch.finfo(g.dtype).tiny)
    found = torch.linalg.eigh(g.mT @ g).eigenvectors[:, -q.shape[1] :]  # ascending; the same for -g
    found = torch.where((found * q).sum(0) < 0, -found, found)
    return found if due is True else torch.where(torch.as_tensor(due), found, q)


def check_density(owner: str, density: float) -> None:
    """Raise unless a share of dimensions lies in (0, 1]."""
    if not 0 < density <= 1:
        raise InvalidValueError(
            f"{owner} got density={density!r}. Expected a share of the dimensions in (0, 1]. Write for example density=0.25."
        )
