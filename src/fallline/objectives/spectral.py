r"""Spectral risks: sorted losses weighted by a spectrum that grows, :math:`\sum_i \sigma_i \ell_{(i)}`, plain or smoothed.

Means of the worst losses, CVaR among them, by one formula; the objective of Prospect.
"""

from __future__ import annotations

import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from fallline.core.claims import claim
from fallline.objectives.base import at_least
from fallline.objectives.robust import checked_spectrum, cvar

__all__ = ["esrm", "extremile", "spectral", "superquantile"]


def spectral(losses: Tensor, spectrum: Tensor, smoothing: float = 0.0) -> Tensor:
    r"""The spectral risk of losses (examples,) with a spectrum (examples,) from the smallest loss to the largest.

    .. math:: \max_{q \in P(\sigma)} \sum_i q_i \ell_i - \nu n \sum_i (q_i - 1 / n)^2

    P is all averages of permutations of the spectrum. Without smoothing, q is the spectrum in the order of the losses; with
    :math:`\nu > 0`, found by isotonic regression, the risk is differentiable where losses are equal (Mehta et al. 2024,
    arXiv:2310.13863). That paper's Prospect lowers the variance of the gradient by a table of past gradients of all
    examples; here the objective is minimised by any optimizer, on batches.
    """
    s = checked_spectrum(losses, spectrum)
    nu = at_least("smoothing", smoothing, 0.0)
    if nu == 0:
        return (losses.sort().values * s).sum()
    n = len(losses)
    q = spectral_weights(losses.detach(), s, nu)
    return (q * losses).sum() - nu * n * (q - 1 / n).square().sum()


def spectral_weights(losses: Tensor, spectrum: Tensor, smoothing: float) -> Tensor:
    """The weights that attain the smoothed maximum: the projection of 1 / n + loss / (2 smoothing n) on P, shape (examples,)."""
    n = len(losses)
    z, order = (1 / n + losses.double() / (2 * smoothing * n)).sort()
    pooled = torch.from_numpy(isotonic_regression((z - spectrum.double()).cpu().numpy()).x.copy()).to(z)
    return torch.empty_like(z).scatter_(0, order, z - pooled).to(losses.dtype)


def superquantile(n: int, beta: float) -> Tensor:
    """The spectrum of ``cvar``: even weights on the largest (1 - beta) n of n losses."""
    many = (1 - at_least("beta", beta, 0.0, high=1 - 1 / n)) * n
    return (many - torch.arange(n - 1, -1, -1, dtype=torch.float64)).clamp(0, 1) / many


def extremile(n: int, r: float) -> Tensor:
    r"""The spectrum of the expected largest of r losses drawn from n: :math:`\sigma_i = (i / n)^r - ((i - 1) / n)^r`, r >= 1."""
    return (torch.linspace(0, 1, n + 1, dtype=torch.float64) ** at_least("r", r, 1.0)).diff()


def esrm(n: int, risk: float) -> Tensor:
    r"""The exponential spectrum, weights in proportion to :math:`e^{\gamma i / n}` with :math:`\gamma` the ``risk``."""
    rising = torch.exp(at_least("risk", risk, 0.0) * (torch.arange(n, dtype=torch.float64) - n) / n)
    return rising / rising.sum()


# -- claims -----------------------------------------------------------------------------------------------------------------


def _losses(n: int = 7) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3


@claim("spectral", "CVaR, the mean and the expected largest of r draws are spectral risks", where="arXiv:2310.13863")
def known_spectra(lab):
    x = _losses()
    for beta in (0.0, 0.3, 0.5):
        yield lab.equal(spectral(x, superquantile(7, beta)), cvar(x, beta))
    yield lab.equal(spectral(x, extremile(7, 1.0)), x.mean())
    yield lab.equal(spectral(x, extremile(7, 2.0)), torch.maximum(x[:, None], x[None]).mean())
    yield lab.equal(spectral(x, esrm(7, 0.0)), x.mean())


@claim(
    "spectral",
    "the smoothed weights are the maximum over all averages of permutations of the spectrum, and tend to the spectrum",
    where="arXiv:2310.13863",
)
def smoothed_is_a_maximum(lab):
    x, s = _losses(5), extremile(5, 2.5)
    made = torch.Generator().manual_seed(1)
    for nu in (0.02, 0.3):
        value = float(spectral(x, s, nu))
        q = spectral_weights(x, s, nu)
        yield lab.equal(q @ x - nu * 5 * (q - 0.2).square().sum(), value)
        yield lab.less(
            -1e-12, float((s.flip(0).cumsum(0) - q.sort(descending=True).values.cumsum(0)).min())
        )  # majorised
        yield lab.equal(q.sum(), 1.0)
        turns = torch.stack([s[torch.randperm(5, generator=made)] for _ in range(100)])
        for share in (1.0, 0.1, 1e-3):  # towards 100 corners: nowhere higher
            other = q + share * (turns - q)
            yield lab.less(float((other @ x - nu * 5 * (other - 0.2).square().sum(1)).max()), value + 1e-12)
    yield lab.close(spectral_weights(x, s, 1e-6), s[x.argsort().argsort()])
    yield lab.close(spectral_weights(x, s, 1e6), torch.full((5,), 0.2), rtol=1e-5)


@claim("spectral", "the gradient by the losses is the weights", where="arXiv:2310.13863")
def gradient_is_the_weights(lab):
    x, s = _losses(5).requires_grad_(), extremile(5, 2.5)
    ends = [torch.zeros(5, dtype=torch.float64) for _ in range(2)]
    slopes = []
    for i in range(5):
        for end, sign in zip(ends, (1, -1), strict=True):
            end.copy_(x.detach())
            end[i] += sign * 1e-5
        slopes.append((spectral(ends[0], s, 0.1) - spectral(ends[1], s, 0.1)) / 2e-5)
    yield lab.close(torch.autograd.grad(spectral(x, s, 0.1), x)[0], torch.stack(slopes), rtol=1e-6)
