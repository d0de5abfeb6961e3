"""Eigenvalues at either end of a symmetric operator, with bounds on their errors: Lanczos with full reorthogonalisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fallline.core.errors import InvalidValueError, unknown
from fallline.curvature.krylov import Krylov
from fallline.curvature.operator import Operator
from fallline.curvature.space import Space

__all__ = ["Condition", "Eigenpairs", "condition_number", "eigsh", "require_symmetric", "sharpness"]

_FLOOR = 0.01
"""Of the largest eigenvalue: the accuracy asked of smaller ones is relative to this."""


@dataclass(frozen=True)
class Eigenpairs:
    r"""Approximate eigenpairs. Within ``bounds[i]`` of ``values[i]`` there is an eigenvalue of the operator:
    :math:`\min_j |\lambda_j - \theta_i| \le \|A x_i - \theta_i x_i\|` for a symmetric A. The error is commonly its square over the
    gap, far smaller."""

    values: Tensor  # (k,), float64, descending
    vectors: Tensor  # (n, k), orthonormal columns
    bounds: Tensor  # (k,), float64
    num_products: int
    converged: bool
    space: Space

    def named(self, i: int = 0) -> dict[str, Tensor]:
        """The i-th vector as named tensors."""
        return self.space.unflatten(self.vectors[:, i])

    def share(self, v: Tensor) -> float:
        r"""The share of a flat vector's squared length that lies in the span: :math:`\|X^T v\|^2 / \|v\|^2`."""
        return float((self.vectors.T @ v).square().sum() / v.square().sum())


def eigsh(
    operator: Operator,
    k: int = 1,
    *,
    which: str = "largest",
    tol: float = 1e-3,
    max_products: int = 300,
    start: Eigenpairs | Tensor | None = None,
    max_basis: int | None = None,
) -> Eigenpairs:
    """The k eigenvalues at one end of a symmetric operator, and their vectors.

    Args:
        which: ``"largest"``, ``"smallest"``, ``"magnitude"`` (largest in size), or ``"both"``: k of each end.
        tol: stop when every residual is below tol times its eigenvalue's size (at least a hundredth of the largest's).
        max_products: stop there in any case; ``converged`` then is False, and the bounds say how far off it may be.
        start: the pairs found at the step before, or columns (n, j) near the ones looked for; a random vector by default.
        max_basis: vectors held at a time, all of the operator's length; beyond, the process restarts from the best of them. By default
            40, or 2 k + 20 if more: holding 200 took no fewer products on any spectrum tried, and more time for each.

    One start vector finds one vector of an eigenvalue that is repeated exactly. A run that starts from the last step's vector follows it
    and may miss another that has overtaken it; following two (``k=2``) is safer.
    """
    require_symmetric(operator, "eigsh()")
    n, wanted = operator.shape[0], k if which != "both" else 2 * k
    if which not in _ENDS:
        raise unknown("end of the spectrum", which, _ENDS)
    if k < 1 or wanted > n:
        raise InvalidValueError(
            f"eigsh() got k={k} of an operator of {n} x {n}, which='{which}'. Expected 1 to {n if which != 'both' else n // 2}. "
            f"Ask for fewer."
        )
    if not tol > 0 or max_products < wanted:
        raise InvalidValueError(
            f"eigsh() got tol={tol!r}, max_products={max_products}. Expected a tolerance above 0 and at least {wanted} products. "
            f"tol=1e-3 is enough for a sharpness."
        )
    capacity = min(n, max_basis or max(2 * wanted + 20, 40), max_products)
    if capacity < min(n, 2 * wanted + 2) and capacity < max_products:
        raise InvalidValueError(
            f"eigsh() got max_basis={max_basis} for {wanted} pairs. Expected at least {2 * wanted + 2}, to restart from. Raise it."
        )
    run = Krylov(operator, _start(operator.domain, start), capacity)
    places = _ENDS[which]
    given, used = len(run.c), 0
    while True:
        if run.size == capacity and capacity < n:
            values, s, residuals = run.ritz()
            run.restart(places(values, min(wanted + 10, capacity - wanted)))
        values, s, residuals = run.ritz() if run.size else (torch.zeros(0), torch.zeros(0, 0), torch.zeros(0))
        if used >= max(given, 1):
            chosen = places(values, min(wanted, run.size))
            size = values.abs().clamp(min=_FLOOR * run.scale)[chosen]
            excess = (residuals[chosen] + run.rounding) / size.clamp(min=1e-300)
            done = run.size >= wanted and bool((excess <= max(tol, run.rounding / max(run.scale, 1e-300))).all())
            done = done or run.size == n or run.scale == 0
            if done or used >= max_products:
                break
            run.grow(s[:, chosen[int(excess.argmax())]])
        else:
            run.grow()
        used += 1
    order = chosen[values[chosen].argsort(descending=True)]
    vectors = torch.linalg.qr(run.vectors(s[:, order]).T).Q if len(order) > 1 else run.vectors(s[:, order]).T
    signs = (vectors * run.vectors(s[:, order]).T).sum(0).sign()
    bounds = residuals[order] + run.rounding
    return Eigenpairs(values[order], vectors * signs, bounds, used, done, operator.domain)


def sharpness(operator: Operator, start: Eigenpairs | None = None, tol: float = 1e-3) -> float:
    """The largest eigenvalue: of the Hessian, what gradient descent compares with 2 / lr."""
    return float(eigsh(operator, tol=tol, start=start).values[0])


@dataclass(frozen=True)
class Condition:
    """The ratio of the extreme eigenvalues and an interval that holds it: infinite above where the least may be zero."""

    value: float
    low: float
    high: float
    largest: float
    smallest: float
    num_products: int


def condition_number(operator: Operator, *, tol: float = 1e-3, max_products: int = 300) -> Condition:
    r"""The condition number :math:`\lambda_{\max} / \lambda_{\min}` of a positive definite operator.

    The least eigenvalue converges slowly where many lie close to it. The interval assumes that the pairs found are the extreme ones.
    """
    found = eigsh(operator, which="both", tol=tol, max_products=max_products)
    (top, bottom), (off_top, off_bottom) = found.values.tolist(), found.bounds.tolist()
    if top <= 0 or bottom < -off_bottom:
        raise InvalidValueError(
            f"condition_number() found eigenvalues from {bottom:.3g} to {top:.3g}. Expected a positive definite operator. Add a multiple "
            f"of the identity, or take ggn(), which is not negative."
        )
    low_end = bottom - off_bottom
    return Condition(
        top / bottom if bottom > 0 else float("inf"),
        (top - off_top) / (bottom + off_bottom),
        (top + off_top) / low_end if low_end > 0 else float("inf"),
        top,
        bottom,
        found.num_products,
    )


def require_symmetric(operator: Operator, what: str) -> None:
    """Raise unless the operator is symmetric by construction."""
    if not operator.is_symmetric:
        raise InvalidValueError(
            f"{what} got an operator of {operator.shape[0]} x {operator.shape[1]} that is not known to be symmetric. Expected one. "
            f"Compose A.T @ A, and say so: (A.T @ A).symmetric()."
        )


def _largest(values: Tensor, k: int) -> Tensor:
    return torch.arange(len(values) - k, len(values))


def _both(values: Tensor, k: int) -> Tensor:
    low, m = k // 2, len(values)
    return torch.cat([torch.arange(low), torch.arange(m - (k - low), m)])


_ENDS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "largest": _largest,
    "smallest": lambda values, k: torch.arange(k),
    "magnitude": lambda values, k: values.abs().argsort()[-k:],
    "both": _both,
}


def _start(space: Space, start: Eigenpairs | Tensor | None) -> Tensor:
    if start is None:
        drawn = torch.randn(1, space.dim, generator=torch.Generator().manual_seed(0))
        return drawn.to(space.device, space.dtype)
    rows = (start.vectors if isinstance(start, Eigenpairs) else start).T
    if rows.dim() != 2 or rows.shape[1] != space.dim:
        raise InvalidValueError(
            f"eigsh() got start vectors of shape {tuple(rows.T.shape)}. Expected ({space.dim}, j), as the vectors of an earlier result."
        )
    return rows.to(space.device, space.dtype).contiguous()
