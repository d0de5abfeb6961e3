r"""The linear stability of SGD at a minimum: noise makes it unstable where gradient descent is not yet.

Near a minimum that fits every example, :math:`E_i = \frac12 w^T H_i w`, the second moment :math:`C = E[w w^T]` moves by

.. math:: T(C) = (I - \eta H) C (I - \eta H) + \eta^2 \frac{n - B}{B (n - 1)} \Bigl(\frac1n \sum_i H_i C H_i - H C H\Bigr),

and SGD is stable in mean square if and only if the radius of T is at most one (batches drawn without replacement).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError

__all__ = ["SgdStability", "coherence", "sgd_stability"]

DENSE = 20  # dimensions up to which T is written out as a matrix


@dataclass(frozen=True)
class SgdStability:
    """The learning rates at which SGD on these curvatures becomes unstable, exact and as rules give it."""

    hessians: Tensor
    """Of every example, shape (examples, d, d)."""
    batch_size: int

    @property
    def _mean(self) -> Tensor:
        return self.hessians.mean(0)

    @property
    def _noise(self) -> float:
        n, b = len(self.hessians), self.batch_size
        return (n - b) / (b * (n - 1)) if n > 1 else 0.0

    def radius(self, lr: float) -> float:
        """The factor by which the mean square grows a step, in the long run: the largest eigenvalue of T."""
        h, own, d = self._mean, self.hessians, self._mean.shape[0]
        keep = torch.eye(d, dtype=h.dtype) - lr * h
        noise = lr**2 * self._noise

        def second_moment(c: Tensor) -> Tensor:
            spread = torch.einsum("nij,jk,nkl->il", own, c, own) / len(own) - h @ c @ h
            return keep @ c @ keep + noise * spread

        if d <= DENSE:
            basis = torch.eye(d * d, dtype=h.dtype).reshape(-1, d, d)
            matrix = torch.stack([second_moment(c).flatten() for c in basis])
            return float(torch.linalg.eigvalsh((matrix + matrix.T) / 2)[-1])

        def product(x: object) -> object:
            return second_moment(torch.as_tensor(x, dtype=h.dtype).reshape(d, d)).flatten().numpy()

        operator = LinearOperator((d * d, d * d), matvec=product, dtype="float64")
        start = torch.eye(d, dtype=h.dtype).flatten().numpy()
        return float(eigsh(operator, k=1, which="LA", v0=start, return_eigenvectors=False)[0])

    @property
    def gradient_descent(self) -> float:
        """2 / lambda_max(H): the limit without noise, and never exceeded with it."""
        return 2 / float(torch.linalg.eigvalsh(self._mean)[-1])

    @property
    def threshold(self) -> float:
        """The largest stable learning rate, exact."""
        return _largest(lambda lr: self.radius(lr) <= 1 + 1e-12, self.gradient_descent)

    @property
    def sufficient(self) -> float:
        r"""Stable below: :math:`\lambda_{\max}((I - \eta H)^2 + \eta^2 \frac{n - B}{B (n - 1)} \Sigma_H) \le 1`, with
        :math:`\Sigma_H = \frac1n \sum_i H_i^2 - H^2` (Wu, Ma & E, NeurIPS 2018, theorem 1)."""
        h, eye = self._mean, torch.eye(self._mean.shape[0], dtype=self._mean.dtype)
        sigma = (self.hessians @ self.hessians).mean(0) - h @ h

        def holds(lr: float) -> bool:
            bound = (eye - lr * h) @ (eye - lr * h) + lr**2 * self._noise * sigma
            return float(torch.linalg.eigvalsh(bound)[-1]) <= 1 + 1e-12

        return _largest(holds, self.gradient_descent)

    @property
    def by_trace(self) -> float:
        r"""2 / tr(H): at batch size one, exact for rank-one curvatures of equal size, an indicator for others."""
        return 2 / float(self._mean.trace())

    @property
    def by_coherence(self) -> float:
        r"""Unstable above :math:`\sigma / (\lambda_1(H) \sqrt{n / B - 1})`, sigma the coherence (Dexter et al., arXiv:2401.12332);
        they draw every example into a batch independently."""
        left_out = len(self.hessians) / self.batch_size - 1
        if left_out == 0:
            return self.gradient_descent
        return min(self.gradient_descent, coherence(self.hessians) * self.gradient_descent / (2 * left_out**0.5))


def sgd_stability(hessians: Tensor, batch_size: int = 1) -> SgdStability:
    """How SGD fares at a minimum with these Hessians of single examples, shape (examples, d, d), symmetric, in float64."""
    if hessians.dim() != 3 or hessians.shape[1] != hessians.shape[2]:
        raise InvalidValueError(
            f"sgd_stability() got Hessians of shape {tuple(hessians.shape)}. Expected (examples, d, d). Stack one square matrix "
            f"for every example."
        )
    if not 1 <= batch_size <= len(hessians):
        raise InvalidValueError(
            f"sgd_stability() got batch_size={batch_size}. Expected 1 to {len(hessians)}, the number of examples. Pass the size "
            f"that you train with."
        )
    return SgdStability(hessians.double(), batch_size)


def coherence(hessians: Tensor) -> float:
    r"""How far curvatures of examples share directions: :math:`\lambda_1(S) / \max_i \lambda_1(H_i)` with
    :math:`S_{ij} = \|H_i^{1/2} H_j^{1/2}\|_F = \sqrt{\mathrm{tr}(H_i H_j)}`; 1 if they are orthogonal and of rank one, n if equal."""
    pairs = torch.einsum("iab,jba->ij", hessians, hessians).clamp(min=0).sqrt()
    return float(torch.linalg.eigvalsh(pairs)[-1] / torch.linalg.eigvalsh(hessians)[:, -1].max())


def _largest(holds: Callable[[float], bool], most: float) -> float:
    """The largest x in (0, most] up to which ``holds``, by bisection."""
    if holds(most):
        return most
    low, high = 0.0, most
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


@claim(
    "SGD stability",
    "at batch size one SGD is unstable when lr tr(H) > 2",
    where="the trace rule; rank-one examples of equal size",
)
def trace_rule(lab):
    made = torch.Generator().manual_seed(0)
    x = torch.randn(20, 5, generator=made, dtype=torch.float64)
    x = x / x.norm(dim=1, keepdim=True)
    found = sgd_stability(x.unsqueeze(2) * x.unsqueeze(1))
    yield lab.close(found.threshold, found.by_trace, rtol=1e-6)
    yield lab.less(1.0, found.radius(1.02 * found.by_trace))
    yield lab.less(1.02 * found.by_trace, found.gradient_descent)  # gradient descent is stable there
