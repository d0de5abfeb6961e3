"""Inverse roots of symmetric positive semi-definite matrices: by eigendecomposition, and by matrix products alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Solver", "inverse_root", "turn_of", "when"]

Solver = Literal["eigh", "newton"]


def inverse_root(
    a: Tensor, root: int, eps: float | Tensor = 0.0, solver: Solver = "eigh", num_iterations: int = 40
) -> Tensor:
    r""":math:`(A + \epsilon \lambda_{\max} I)^{-1 / \mathrm{root}}` of symmetric matrices of shape (..., n, n); of zero, the identity.

    ``"eigh"`` decomposes, and takes eigenvalues below zero, which are rounding, as zero; with ``eps=0`` a null space is left out, as in
    a pseudo-inverse. ``"newton"`` is the coupled Newton iteration (Guo & Higham 2006, doi:10.1137/050643374; Anil et al.,
    arXiv:2002.09018): nothing but products, on a stack of matrices at once; ``num_iterations`` suffice for a condition number of about
    e to the power of their number less ten. For its largest eigenvalue it takes the largest sum of
    a row, and it needs a ridge: eps is at least what rounding makes of zero.
    """
    a = a.nan_to_num()  # of steps that will not be taken
    a = (a + a.mT) / 2
    size = a.abs().amax((-2, -1), keepdim=True)
    size = torch.where(size > 0, size, torch.ones_like(size))
    found = (_by_eigh if solver == "eigh" else _by_newton)(a / size, root, eps, num_iterations)
    return found * size ** (-1 / root)


def _by_eigh(a: Tensor, root: int, eps: float | Tensor, _: int) -> Tensor:
    values, vectors = torch.linalg.eigh(a)
    largest = values.amax(-1, keepdim=True)
    noise = values.shape[-1] * torch.finfo(a.dtype).eps * largest  # what rounding makes of zero
    lifted = values.clamp(min=0) + eps * largest
    safe = torch.where(lifted > 0, lifted, torch.ones_like(lifted))
    inverse = torch.where((lifted > noise) | (largest <= 0), safe ** (-1 / root), torch.zeros_like(lifted))
    return (vectors * inverse.unsqueeze(-2)) @ vectors.mT


def _by_newton(a: Tensor, root: int, eps: float | Tensor, num_iterations: int) -> Tensor:
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    largest = a.abs().sum(-1).amax(-1)[..., None, None]
    lift = torch.as_tensor(eps, dtype=a.dtype).clamp(
        min=a.shape[-1] * torch.finfo(a.dtype).eps
    )  # rounding is below zero, too
    a = torch.where(largest > 0, a + lift * largest * eye, eye)
    z = (1 + root) / (2 * torch.linalg.matrix_norm(a, keepdim=True))
    m, x = z * a, z ** (1 / root) * eye
    for _ in range(num_iterations):
        step = ((root + 1) * eye - m) / root
        x = x @ step
        m = torch.linalg.matrix_power(step, root) @ m
        m = (m + m.mT) / 2
    return x


def iterations_for(eps: float, root: int) -> int:
    """Iterations of ``"newton"`` after which the smallest eigenvalue of a matrix lifted by ``eps`` has come to one."""
    return math.ceil(math.log(1 / eps) / (root * math.log1p(1 / root))) + 8


def turn_of(shape: tuple[int, ...], every: int) -> int:
    """The step of a period of ``every`` at which tensors of this shape have their turn, so that not all have it at the same one.

    It depends on the shape alone: tensors of one shape, which are stacked, keep together."""
    turn = 0
    for n in shape:
        turn = 31 * turn + n
    return turn % every


def when(due: bool | Tensor, renew: Callable[[], tuple[Tensor, ...]], old: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """New values where they are due, without the work where they are not. ``due`` comes from ``at.turn``, which is a number even where
    ``at.t`` lies on a device; of a tensor, in a trace or under vmap, the work is done in any case."""
    if not isinstance(due, Tensor):
        return renew() if due else old
    return tuple(torch.where(due, a, b) for a, b in zip(renew(), old, strict=True))
