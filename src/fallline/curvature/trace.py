r"""Trace, diagonal and Frobenius norm from products with random vectors, each with its standard error.

Entries of the vectors are +1 or -1 with equal probability: among vectors with independent entries these have the least variance, and
a diagonal matrix is estimated without error (Hutchinson 1989).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.stats import t as student
from torch import Tensor

from fallline.core.errors import InvalidValueError, unknown
from fallline.curvature.eigen import require_symmetric
from fallline.curvature.operator import Operator
from fallline.curvature.space import Space

__all__ = ["DiagonalEstimate", "Estimate", "estimate_diagonal", "frobenius_norm", "probes", "trace"]

METHODS = ("hutch++", "hutchinson")


@dataclass(frozen=True)
class Estimate:
    """A number from random probes, its standard error, and what it took."""

    value: float
    error: float
    num_probes: int  # that the error comes from
    num_products: int

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Student's interval; all numbers if there was one probe only."""
        if self.error == 0:
            return self.value, self.value
        half = (
            float(student.ppf((1 + level) / 2, self.num_probes - 1)) * self.error if self.num_probes > 1 else math.inf
        )
        return self.value - half, self.value + half


@dataclass(frozen=True)
class DiagonalEstimate:
    """The diagonal, flat, with the standard error of every entry."""

    values: Tensor
    errors: Tensor
    space: Space
    num_products: int

    def named(self) -> dict[str, Tensor]:
        """The diagonal as named tensors."""
        return self.space.unflatten(self.values)


def trace(
    operator: Operator, *, method: str = "hutch++", rtol: float = 0.05, max_products: int = 120, seed: int = 0
) -> Estimate:
    r"""The trace of a symmetric operator, with its standard error.

    ``"hutchinson"``: the mean of :math:`v^T A v`; its variance is :math:`2 \sum_{i \ne j} A_{ij}^2` over the number of probes.
    ``"hutch++"`` (Meyer, Musco, Musco & Woodruff, arXiv:2010.09649, algorithm 1): a third of the products finds the range Q of A
    roughly, a third takes :math:`\mathrm{tr}(Q^T A Q)` exactly, the rest estimates what is left: an error that falls as 1 / m in place of
    :math:`1 / \sqrt m`, if the spectrum has few large eigenvalues.

    Args:
        rtol: stop once the 95 % interval is within this share of the value.
        max_products: stop there in any case.
    """
    require_symmetric(operator, "trace()")
    if method not in METHODS:
        raise unknown("method for the trace", method, METHODS)
    _require_budget("trace()", max_products)
    n, used, exact = operator.shape[0], 0, 0.0
    random = torch.Generator().manual_seed(seed)
    basis = torch.zeros(0, n, dtype=operator.domain.dtype, device=operator.domain.device)
    if method == "hutch++":
        size = min(max_products // 3, n)
        sketch = operator.rows(probes(operator.domain, size, random)) if size < n else None
        full = torch.eye(n, dtype=basis.dtype, device=basis.device) if sketch is None else sketch.T
        basis = torch.linalg.qr(full).Q.T.contiguous()
        exact, used = float((basis * operator.rows(basis)).sum()), size + (size if size < n else 0)
        if size == n:
            return Estimate(exact, 0.0, 0, used)
    seen: list[float] = []
    while used < max_products:
        v = probes(operator.domain, 1, random)[0]
        v = v - (basis @ v) @ basis
        seen.append(float(operator.quadratic(v)))
        used += 1
        found = _estimate(seen, exact, used)
        if len(seen) >= _MIN_PROBES and found.interval()[1] - found.value <= rtol * abs(found.value):
            break
    return _estimate(seen, exact, used)


def frobenius_norm(operator: Operator, *, num_products: int = 30, seed: int = 0) -> Estimate:
    r""":math:`\|A\|_F`, from :math:`\mathbb{E}\,\|A v\|^2 = \|A\|_F^2`; the root is biased down by half its squared relative error."""
    _require_budget("frobenius_norm()", num_products)
    random = torch.Generator().manual_seed(seed)
    seen = [float(operator.rows(probes(operator.domain, 1, random)).square().sum()) for _ in range(num_products)]
    square = _estimate(seen, 0.0, num_products)
    root = math.sqrt(square.value)
    return Estimate(root, square.error / (2 * root) if root else 0.0, num_products, num_products)


def estimate_diagonal(operator: Operator, *, num_products: int = 30, seed: int = 0) -> DiagonalEstimate:
    r"""The diagonal as the mean of :math:`v \odot A v` (Bekas, Kokiopoulou & Saad 2007); the variance of entry i is
    :math:`\sum_{j \ne i} A_{ij}^2` over the number of probes."""
    _require_budget("estimate_diagonal()", num_products)
    random = torch.Generator().manual_seed(seed)
    mean = torch.zeros(operator.shape[0], dtype=operator.domain.dtype, device=operator.domain.device)
    spread = torch.zeros_like(mean)
    for i in range(num_products):  # Welford's update
        v = probes(operator.domain, 1, random)
        found = (v * operator.rows(v))[0]
        delta = found - mean
        mean = mean + delta / (i + 1)
        spread = spread + delta * (found - mean)
    errors = (spread / (num_products - 1) / num_products).sqrt()
    return DiagonalEstimate(mean, errors, operator.domain, num_products)


_MIN_PROBES = 5


def probes(space: Space, count: int, random: torch.Generator) -> Tensor:
    """Rows of random signs, shape (count, n): the same on every device."""
    signs = torch.randint(0, 2, (count, space.dim), generator=random, dtype=torch.int8)
    return signs.to(space.device, space.dtype).mul_(2).sub_(1)


def _estimate(seen: list[float], exact: float, used: int) -> Estimate:
    values = torch.tensor(seen, dtype=torch.float64)
    spread = float(values.std()) / math.sqrt(len(seen)) if len(seen) > 1 else math.inf
    return Estimate(exact + float(values.mean()), spread, len(seen), used)


def _require_budget(what: str, budget: int) -> None:
    if budget < 6:
        raise InvalidValueError(
            f"{what} got a budget of {budget} products. Expected at least 6, to say how far off it may be. Raise it."
        )
