r"""One direction from the gradients of several losses, rows of a matrix G (losses, numbers): PCGrad, ConFIG, IMTL-G, normalised.

A rule is a function of G alone; ``several`` leaves out rows of zeros before it asks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fallline.core.claims import claim

__all__ = ["config", "imtl", "normalised", "pcgrad"]


def pcgrad(gradients: Tensor) -> Tensor:
    r"""The sum of the gradients, each projected off those that it conflicts with, one after the other.

    .. math:: g_i \leftarrow g_i - \frac{\min(0, \langle g_i, g_j \rangle)}{\lVert g_j \rVert^2} g_j \quad \text{for } j \ne i

    In the order given, where the paper draws an order: with two losses there is but one (Yu et al. 2020, arXiv:2001.06782,
    algorithm 1).
    """
    total = torch.zeros_like(gradients[0])
    for i, g in enumerate(gradients):
        for j, other in enumerate(gradients):
            if j != i:
                g = g - (g @ other).clamp(max=0) / (other @ other) * other
        total = total + g
    return total


def config(gradients: Tensor) -> Tensor:
    r"""The direction that has equal, positive cosines with all gradients, as long as the gradients' projections on it together.

    .. math:: d = U^+ \mathbf{1}, \qquad \Big(\sum_i \langle g_i, \hat d \rangle\Big) \hat d

    with U the gradients made unit vectors, as rows (Liu et al. 2024, arXiv:2408.11104). Equal cosines need linearly independent gradients.
    """
    units = gradients / gradients.norm(dim=1, keepdim=True)
    d = _solve(units @ units.T, torch.ones(len(units))).to(units) @ units
    d = d / d.norm()
    return (gradients @ d).sum() * d


def imtl(gradients: Tensor) -> Tensor:
    r"""The weighted mean of the gradients, weights of sum 1 and any sign, whose projections on the unit gradients are equal.

    .. math:: \sum_i \alpha_i g_i, \qquad \Big\langle \sum_i \alpha_i g_i, \frac{g_j}{\lVert g_j \rVert} \Big\rangle \text{ the same for all } j

    IMTL-G of Liu et al. 2021, "Towards impartial multi-task learning", ICLR. The direction is ConFIG's, up to its sign, the length is not.
    """
    norms = gradients.norm(dim=1)
    units = gradients / norms[:, None]
    weights = _solve(units @ units.T, torch.ones(len(units))).to(units) / norms
    return (weights / weights.sum()) @ gradients


def normalised(gradients: Tensor) -> Tensor:
    r"""The sum of the gradients made unit vectors, :math:`\sum_i g_i / \lVert g_i \rVert`: every loss pulls alike.

    Of classes: per-class normalised gradient descent (Francazi et al. 2023, arXiv:2207.00391).
    """
    return (gradients / gradients.norm(dim=1, keepdim=True)).sum(0)


def _solve(gram: Tensor, right: Tensor) -> Tensor:
    """The least-squares solution of a small symmetric system, in float64."""
    return torch.linalg.pinv(gram.double(), hermitian=True) @ right.to(gram.device, torch.float64)


# -- claims -----------------------------------------------------------------------------------------------------------------


def _gradients(k: int = 3, conflict: float = 0.6) -> Tensor:
    g = torch.randn(k, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    g[1] = g[1] - conflict * g[0] * (g[0].norm() + g[1].norm())
    return g * torch.tensor([[1.0], [5.0], [0.1]], dtype=torch.float64)[:k]


@claim(
    "pcgrad",
    "of two gradients that conflict, neither is opposed by the result; without conflict it is the sum",
    where="arXiv:2001.06782, algorithm 1",
)
def no_conflict_is_left(lab):
    g = _gradients(2)
    yield lab.less(float(g[0] @ g[1]), 0.0)
    for own in g:
        yield lab.less(-1e-12, float(own @ pcgrad(g)))
    apart = torch.stack([g[0] - (g[0] @ g[1]) / (g[1] @ g[1]) * g[1], g[1] - (g[0] @ g[1]) / (g[0] @ g[0]) * g[0]])
    yield lab.equal(pcgrad(g), apart.sum(0))
    agree = torch.stack([g[0], -g[1]])
    yield lab.equal(pcgrad(agree), agree.sum(0))


@claim(
    "config",
    "the cosines with all gradients are equal and positive, and the length is the sum of the projections",
    where="arXiv:2408.11104",
)
def cosines_are_equal(lab):
    g = _gradients()
    d = config(g)
    cosines = (g / g.norm(dim=1, keepdim=True)) @ d / d.norm()
    yield lab.close(cosines, cosines.mean())
    yield lab.less(0.0, float(cosines.min()))
    yield lab.close(d.norm(), (g @ d / d.norm()).sum())
    one = _gradients()[:1]
    yield lab.equal(config(one), one[0])


@claim(
    "imtl",
    "the projections on all unit gradients are equal, and the direction is ConFIG's",
    where="Liu et al. 2021, ICLR, on IMTL-G",
)
def projections_are_equal(lab):
    g = _gradients()
    d = imtl(g)
    along = (g / g.norm(dim=1, keepdim=True)) @ d
    yield lab.close(along, along.mean())
    yield lab.close((d @ config(g)).abs(), d.norm() * config(g).norm())
    weights = torch.linalg.lstsq(g.T, d).solution
    yield lab.close(weights.sum(), 1.0)
