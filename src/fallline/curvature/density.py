r"""The density of eigenvalues by stochastic Lanczos quadrature.

For a probe v of random signs, m steps of Lanczos give the nodes and weights of a Gauss quadrature,

.. math:: \frac{1}{n} v^T f(A) v \approx \sum_{j \le m} w_j f(\theta_j), \qquad w_j = s_{1j}^2,

exact for polynomials up to degree 2 m - 1; its mean over probes estimates :math:`\mathrm{tr} f(A) / n` (Golub & Meurant 1994; Ubaru,
Chen & Saad 2017; for networks Ghorbani, Krishnan & Xiao, arXiv:1901.10159).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fallline.core.errors import InvalidValueError
from fallline.curvature.eigen import require_symmetric
from fallline.curvature.krylov import Krylov
from fallline.curvature.operator import Operator
from fallline.curvature.trace import Estimate, probes

__all__ = ["SpectralDensity", "spectral_density"]


@dataclass(frozen=True)
class SpectralDensity:
    """Nodes and weights of every probe, shape (probes, steps), float64; the weights of a probe sum to one."""

    nodes: Tensor
    weights: Tensor
    dim: int
    num_products: int

    def trace_of(self, f: Callable[[Tensor], Tensor]) -> Estimate:
        r""":math:`\mathrm{tr} f(A)` of a function of the eigenvalues, with the standard error between probes."""
        each = self.dim * (self.weights * f(self.nodes)).sum(1)
        error = float(each.std()) / math.sqrt(len(each)) if len(each) > 1 else math.inf
        return Estimate(float(each.mean()), error, len(each), self.num_products)

    def moment(self, power: int) -> Estimate:
        r"""The mean of the eigenvalues' powers, :math:`\mathrm{tr}(A^p) / n`."""
        found = self.trace_of(lambda x: x**power)
        return Estimate(found.value / self.dim, found.error / self.dim, found.num_probes, found.num_products)

    def fraction(self, low: float, high: float) -> Estimate:
        """The share of eigenvalues in [low, high]."""
        found = self.trace_of(lambda x: ((x >= low) & (x <= high)).to(x))
        return Estimate(found.value / self.dim, found.error / self.dim, found.num_probes, found.num_products)

    def on(self, grid: Tensor, width: float | None = None) -> Tensor:
        """The density at the grid's points, nodes smeared to normal curves of this width (a hundredth of the range by default)."""
        sigma = width or float(self.nodes.max() - self.nodes.min()) / 100 or 1e-12
        away = (grid.double()[:, None] - self.nodes.reshape(-1)) / sigma
        curves = (-away.square() / 2).exp() / (sigma * math.sqrt(2 * math.pi))
        return curves @ self.weights.reshape(-1) / len(self.nodes)

    def grid(self, points: int = 500) -> Tensor:
        """Evenly spaced points that cover all nodes, with a margin."""
        low, high = float(self.nodes.min()), float(self.nodes.max())
        margin = 0.05 * (high - low) or 1.0
        return torch.linspace(low - margin, high + margin, points, dtype=torch.float64)


def spectral_density(operator: Operator, *, num_probes: int = 4, num_steps: int = 40, seed: int = 0) -> SpectralDensity:
    """Stochastic Lanczos quadrature with full reorthogonalisation: ``num_probes * num_steps`` products."""
    require_symmetric(operator, "spectral_density()")
    if num_probes < 1 or num_steps < 1:
        raise InvalidValueError(
            f"spectral_density() got num_probes={num_probes}, num_steps={num_steps}. Expected at least 1 of each. Two probes or more give "
            f"an error."
        )
    steps = min(num_steps, operator.shape[0])
    random = torch.Generator().manual_seed(seed)
    nodes, weights = torch.zeros(num_probes, steps, dtype=torch.float64), torch.zeros(num_probes, steps).double()
    used = 0
    for i in range(num_probes):
        run = Krylov(operator, probes(operator.domain, 1, random), steps)
        while run.size < steps and len(run.c):  # without a candidate the quadrature is exact
            run.grow()
        values, s, _ = run.ritz()
        nodes[i], weights[i, : run.size] = values[-1], s[0].square()
        nodes[i, : run.size] = values
        used += run.size
    return SpectralDensity(nodes, weights, operator.shape[0], used)
