r"""The Lanczos process with full reorthogonalisation, from one start vector or several.

Rows of Q are an orthonormal basis, rows of C what products have left outside of it:

.. math:: A Q^T = Q^T H + C^T B^T, \qquad Q Q^T = I, \quad C C^T = I, \quad Q C^T = 0

For a Ritz pair (theta, s) of H and x = Q^T s the residual is :math:`A x - \theta x = C^T B^T s`, so that its norm is
:math:`|B^T s|`, at no further product. With one start vector C has one row and this is Lanczos' method (1950); with several, each step
goes where the residual is that matters, as in band Lanczos (Ruhe 1979).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fallline.curvature.operator import Operator

__all__ = ["Krylov"]

_CANCELLED = 0.1
"""What is left of a vector after a projection, of 1, below which rounding calls for another."""


class Krylov:
    """A growing basis. H and B are float64 on the CPU, whatever the operator's dtype; vectors are rows."""

    def __init__(self, operator: Operator, start: Tensor, capacity: int, seed: int = 0) -> None:
        self.operator, self.size = operator, 0
        self.q = start.new_empty(capacity, start.shape[1])
        self.h = torch.zeros(capacity, capacity, dtype=torch.float64)
        self.b = torch.zeros(capacity, 0, dtype=torch.float64)
        self.c = start[:0]
        self.scale = 0.0  # the largest Ritz value so far
        self._random = torch.Generator().manual_seed(seed + 1)
        for row in start:
            self._add_candidate(row, self.b.new_zeros(capacity))

    @property
    def dim(self) -> int:
        """Of the space."""
        return self.q.shape[1]

    @property
    def rounding(self) -> float:
        """What rounding may have left out of a residual."""
        return 4 * torch.finfo(self.q.dtype).eps * self.scale * max(self.size, 1) ** 0.5

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values, ascending; their vectors in the basis as columns; the norms of their residuals."""
        m = self.size
        values, s = torch.linalg.eigh(self.h[:m, :m])
        self.scale = max(self.scale, float(values.abs().max()))
        return values, s, (self.b[:m].T @ s).norm(dim=0)

    def vectors(self, s: Tensor) -> Tensor:
        """Combinations of the basis, one for each column of s, as rows."""
        return s.T.to(self.q) @ self.q[: self.size]

    def grow(self, towards: Tensor | None = None) -> None:
        """One product: with the residual of the Ritz vector ``towards``, or with the next candidate."""
        if not len(self.c):  # the basis is closed under A: go on from elsewhere
            self._add_candidate(torch.randn(self.dim, generator=self._random), self.b.new_zeros(len(self.b)))
        if towards is not None and len(self.c) > 1:
            self._turn(self.b[: self.size].T @ towards)
        m = self.size
        v, self.c, self.b = self.c[0], self.c[1:], self.b[:, 1:]
        self.q[m] = v
        self.size += 1
        w = self.operator.rows(v[None])[0]
        before = float(w.norm())
        w, column = self._outside(w, before)
        self.h[: m + 1, m] = self.h[m, : m + 1] = column
        self.scale = max(self.scale, abs(float(column[m])))
        shares = self.c @ w
        self.b[m] = shares.double().cpu()
        w = w - shares @ self.c
        left = float(w.norm())
        if left > 10 * torch.finfo(w.dtype).eps * max(before, self.scale) and self.size < self.dim:
            self.c = torch.cat([self.c, (w / left)[None]])
            row = self.b.new_zeros(len(self.b), 1)
            row[m] = left
            self.b = torch.cat([self.b, row], 1)

    def restart(self, chosen: Tensor) -> None:
        """Keep the Ritz vectors of these places, and what they leave outside: thick restart (Wu & Simon 2000)."""
        values, s, _ = self.ritz()
        s, m = s[:, chosen], len(chosen)
        self.q[:m] = self.vectors(s)
        b = s.T @ self.b[: self.size]
        self.h.zero_()
        self.b.zero_()
        self.h[:m, :m], self.b[:m], self.size = torch.diag(values[chosen]), b, m

    def _outside(self, w: Tensor, before: float) -> tuple[Tensor, Tensor]:
        """The part of w outside the basis, and its coefficients inside."""
        basis = self.q[: self.size]
        inside = basis @ w
        w = torch.addmv(w, basis.T, inside, alpha=-1)
        column = inside.double().cpu()
        if float(w.norm()) < _CANCELLED * before:
            again = basis @ w
            w = torch.addmv(w, basis.T, again, alpha=-1)
            column += again.double().cpu()
        return w, column

    def _turn(self, direction: Tensor) -> None:
        """Reflect the candidates so that the first of them has this direction; B follows."""
        length = direction.norm()
        if float(length) == 0:
            return
        z = direction / length
        z[0] -= 1
        if float(z.norm()) < 1e-8:
            return
        z = z / z.norm()
        self.b = self.b - 2 * torch.outer(self.b @ z, z)
        z = z.to(self.c)
        self.c = self.c - 2 * torch.outer(z, z @ self.c)

    def _add_candidate(self, row: Tensor, weights: Tensor) -> None:
        row = row.to(self.q)
        row = row / row.norm()
        for _ in range(2):
            row = row - (self.q[: self.size] @ row) @ self.q[: self.size]
            row = row - (self.c @ row) @ self.c
        if float(row.norm()) > 1e-3:  # else it lies among the others
            self.c = torch.cat([self.c, (row / row.norm())[None]])
            self.b = torch.cat([self.b, weights[:, None]], 1)
