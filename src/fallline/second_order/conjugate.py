r"""Conjugate gradients for a symmetric operator, with an exit where the curvature is not positive.

.. math:: A x = b, \qquad \min_x \tfrac12 x^T A x - b^T x
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.curvature import Operator, Space
from fallline.curvature.eigen import require_symmetric

__all__ = ["Solution", "conjugate_gradient"]


@dataclass(frozen=True)
class Solution:
    """Where conjugate gradients ended: x, the norm of what is left of b, and why it ended."""

    x: Tensor  # flat, shape (n,)
    residual: float
    num_products: int
    converged: bool
    negative: Tensor | None  # the direction along which the curvature was not positive, where one was met


def conjugate_gradient(
    operator: Operator,
    b: Tensor,
    *,
    damping: float = 0.0,
    tol: float = 1e-6,
    max_products: int = 250,
    start: Tensor | None = None,
    preconditioner: Callable[[Tensor], Tensor] | None = None,
) -> Solution:
    r"""Solve :math:`(A + \lambda I) x = b` for a flat b by products with A, until :math:`|b - A x| \le \text{tol}\, |b|`.

    It ends early at a direction p with :math:`p^T (A + \lambda I) p \le 0`, and returns x as it is before that direction, which is
    zero (or ``start``) if it is the first. Hestenes and Stiefel 1952; the exit is that of Nocedal and Wright 2006, algorithm 7.1.

    Args:
        start: where x begins; zero by default.
        preconditioner: flat v to :math:`M^{-1} v`, M symmetric, positive definite and near A.
    """
    require_symmetric(operator, "conjugate_gradient()")
    if b.dim() != 1 or len(b) != operator.shape[0]:
        raise InvalidValueError(
            f"conjugate_gradient() got b of shape {tuple(b.shape)} for an operator of {operator.shape[0]} x {operator.shape[1]}. "
            f"Expected ({operator.shape[0]},). Flatten named tensors with operator.domain.flatten(tensors)."
        )
    if not tol >= 0 or max_products < 0:
        raise InvalidValueError(
            f"conjugate_gradient() got tol={tol!r}, max_products={max_products}. Expected numbers of at least 0. Leave them out."
        )
    precondition = preconditioner or (lambda v: v)
    x = torch.zeros_like(b) if start is None else start.clone()
    used, goal = 0, tol * float(b.norm())

    def times(v: Tensor) -> Tensor:
        return operator @ v + damping * v

    r = b.clone()
    if start is not None and bool(start.any()):
        r, used = b - times(x), 1
    z = precondition(r)
    p, rz = z.clone(), r @ z
    while used < max_products and float(r.norm()) > goal:
        ap = times(p)
        used += 1
        bend = p @ ap
        if float(bend) <= 0:
            return Solution(x, float(r.norm()), used, False, p)
        step = rz / bend
        x = x + step * p
        r = r - step * ap
        z = precondition(r)
        rz, before = r @ z, rz
        p = z + (rz / before) * p
    left = float(r.norm())
    return Solution(x, left, used, left <= goal, None)


@claim(
    "conjugate_gradient",
    "it ends after as many products as there are different eigenvalues, and its error in the energy norm falls as 2 (sqrt(c)-1)/(sqrt(c)+1)",
    where="Hestenes and Stiefel 1952; Nocedal and Wright 2006, theorem 5.4 and eq. 5.36",
)
def as_many_as_eigenvalues(lab):
    made = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(60, 60, generator=made, dtype=torch.float64)).Q
    b = torch.randn(60, generator=made, dtype=torch.float64)

    def of(values: Tensor) -> tuple[Tensor, Operator]:
        a = q * values @ q.T
        return a, Operator(Space({"x": (60,)}, torch.float64), lambda v: v @ a)

    a, operator = of(torch.tensor([1.0, 4, 9]).double().repeat(20))
    found = conjugate_gradient(operator, b, tol=1e-12, max_products=3)
    yield lab.close(a @ found.x, b)
    a, operator = of(torch.linspace(1, 100, 60).double())
    exact = torch.linalg.solve(a, b)
    for k in (5, 10, 20):
        off = conjugate_gradient(operator, b, tol=0.0, max_products=k).x - exact
        bound = 2 * (9 / 11) ** k * (exact @ a @ exact).sqrt()
        yield lab.less(float((off @ a @ off).sqrt()), float(bound))
