r"""Distributionally robust losses: the largest mean under other weights of the examples, :math:`\max_{q \in Q} \sum_i q_i \ell_i`.

The weights are found to rounding, from the sorted losses or by bisection, and held fixed in the gradient, as Danskin's theorem says; second
derivatives of these losses are therefore not to be used. Penalised KL divergence is ``term`` with t one over the penalty.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.objectives.base import at_least
from fallline.objectives.tilted import _check

__all__ = ["chi_square_dro", "cvar", "kl_dro"]


def cvar(losses: Tensor, beta: float) -> Tensor:
    r"""Conditional value at risk (superquantile): the mean of the largest ``(1 - beta) n`` losses, a part of one of them included.

    .. math:: \min_\alpha \alpha + \frac{1}{1 - \beta} \frac{1}{n} \sum_i (\ell_i - \alpha)_+
        = \max_q \Big\{ \sum_i q_i \ell_i : 0 \le q_i \le \frac{1}{(1 - \beta) n} \Big\}

    Rockafellar and Uryasev 2000. On small batches its mean lies below the risk of all data; ``spl_plus`` has no such bias.
    """
    _check(losses)
    n = len(losses)
    many = (1 - at_least("beta", beta, 0.0, high=1.0 - 1e-12)) * n
    weights = (many - torch.arange(n, device=losses.device, dtype=losses.dtype)).clamp(0, 1) / min(many, float(n))
    if many < 1:
        return losses.amax()
    return (losses.sort(descending=True).values * weights).sum()


def chi_square_dro(losses: Tensor, radius: float) -> Tensor:
    r"""The largest mean under weights within a chi-square divergence of the even ones.

    .. math:: \max_q \Big\{ \sum_i q_i \ell_i : \frac{1}{2 n} \sum_i (n q_i - 1)^2 \le \rho \Big\}
        = \min_\eta \eta + \sqrt{1 + 2 \rho} \Big(\frac{1}{n} \sum_i (\ell_i - \eta)_+^2\Big)^{1/2}

    While no weight is zero it is mean + sqrt(2 rho variance) (Namkoong and Duchi 2017, arXiv:1610.02581; the dual: Duchi and
    Namkoong 2018, arXiv:1810.08750).
    """
    _check(losses)
    return (chi_square_weights(losses.detach(), at_least("radius", radius, 0.0)) * losses).sum()


def chi_square_weights(losses: Tensor, radius: float) -> Tensor:
    """The weights that attain the maximum, shape (examples,): proportional to (loss - eta)_+, with eta found by bisection."""
    n = len(losses)

    def divergence(q: Tensor) -> Tensor:
        return (n * q - 1).square().mean() / 2

    def weights(log_reach: Tensor, x: Tensor) -> Tensor:
        q = (x + log_reach.exp()).clamp_min(0)
        return q / q.sum()

    return _widest(losses, radius, weights, divergence, narrow=-60.0, wide=40.0)


def kl_dro(losses: Tensor, radius: float) -> Tensor:
    r"""The largest mean under weights within a KL divergence of the even ones: a tilt whose t is found by bisection.

    .. math:: \max_q \Big\{ \sum_i q_i \ell_i : \sum_i q_i \log (n q_i) \le \rho \Big\}
        = \min_{t > 0} \frac{\rho}{t} + \frac{1}{t} \log \frac{1}{n} \sum_i e^{t \ell_i}

    Hu and Hong 2013, "Kullback-Leibler divergence constrained distributionally robust optimization".
    """
    _check(losses)
    return (kl_weights(losses.detach(), at_least("radius", radius, 0.0)) * losses).sum()


def kl_weights(losses: Tensor, radius: float) -> Tensor:
    """The weights that attain the maximum, shape (examples,)."""

    def divergence(q: Tensor) -> Tensor:
        return torch.special.xlogy(q, q * len(q)).sum()

    def weights(log_temperature: Tensor, x: Tensor) -> Tensor:
        return torch.softmax(x / log_temperature.exp(), 0)

    return _widest(losses, radius, weights, divergence, narrow=-40.0, wide=20.0)


def _widest(
    losses: Tensor,
    radius: float,
    weights: Callable[[Tensor, Tensor], Tensor],
    divergence: Callable[[Tensor], Tensor],
    narrow: float,
    wide: float,
) -> Tensor:
    """The narrowest weights within the ball. ``weights(s, x)``, of losses x scaled to [-1, 0], go from the largest loss alone at ``narrow`` to
    even ones at ``wide``, and their divergence falls on the way."""
    x = losses.double()
    spread = x.max() - x.min()
    x = (x - x.max()) / torch.where(spread == 0, 1.0, spread)
    low, high = x.new_tensor(narrow), x.new_tensor(wide)
    for _ in range(64):
        middle = (low + high) / 2
        over = divergence(weights(middle, x)) > radius
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    return weights(high, x).to(losses.dtype)


# -- claims -----------------------------------------------------------------------------------------------------------------


def _losses(n: int = 7) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3


@claim(
    "cvar",
    "it is the smallest over alpha of alpha + mean (loss - alpha)_+ / (1 - beta), attained at one of the losses",
    where="Rockafellar and Uryasev 2000, theorem 1",
)
def cvar_is_its_dual(lab):
    x = _losses()
    for beta in (0.0, 0.3, 0.5, 0.9):
        dual = x + (x[None] - x[:, None]).clamp_min(0).mean(1) / (1 - beta)
        yield lab.equal(cvar(x, beta), dual.min())
    yield lab.equal(cvar(x, 0.0), x.mean())


@claim(
    "chi_square_dro", "while all weights are positive it is mean + sqrt(2 radius variance)", where="arXiv:1610.02581"
)
def chi_square_is_variance(lab):
    x = _losses()
    yield lab.equal(chi_square_dro(x, 0.05), x.mean() + (0.1 * x.var(correction=0)).sqrt())


@claim(
    "chi_square_dro",
    "it is the smallest over eta of its dual, and the weights lie on the ball",
    where="arXiv:1810.08750",
)
def chi_square_is_its_dual(lab):
    x = _losses()
    eta = torch.linspace(-20, float(x.max()), 200_001, dtype=torch.float64)
    for radius in (0.05, 0.5, 1.5, 2.5):
        dual = torch.zeros_like(eta)
        for loss in x:
            dual += (loss - eta).clamp_min(0).square() / len(x)
        yield lab.close(chi_square_dro(x, radius), ((1 + 2 * radius) ** 0.5 * dual.sqrt() + eta).min(), rtol=1e-7)
        q = chi_square_weights(x, radius)
        yield lab.close((7 * q - 1).square().mean() / 2, radius)
    yield lab.equal(chi_square_dro(x, 3.5), x.max())  # all weight on one of seven: divergence (7 - 1) / 2 = 3


@claim(
    "kl_dro",
    "it is the smallest over t of (radius + log mean exp(t loss)) / t, and the weights lie on the ball",
    where="Hu and Hong 2013",
)
def kl_is_its_dual(lab):
    x = _losses()
    for radius in (0.01, 0.3, 1.0):
        tilts = torch.logspace(-2, 2, 4001, dtype=torch.float64)
        dual = (radius + torch.logsumexp(tilts[:, None] * x, 1) - math.log(7)) / tilts
        yield lab.close(kl_dro(x, radius), dual.min(), rtol=1e-5)
        q = kl_weights(x, radius)
        yield lab.close((q * (7 * q).log()).sum(), radius)
    yield lab.close(kl_dro(x, 2.0), x.max())  # log 7 = 1.95


def checked_spectrum(losses: Tensor, spectrum: Tensor) -> Tensor:
    """The spectrum in the losses' dtype, or an error: as many weights as losses, not negative, not falling, of sum 1."""
    _check(losses)
    s = spectrum.to(losses)
    if (
        s.shape != losses.shape
        or bool((s < 0).any())
        or bool((s.diff() < -1e-6).any())
        or abs(float(s.sum()) - 1) > 1e-4
    ):
        raise InvalidValueError(
            f"The spectrum has shape {tuple(s.shape)}, sum {float(s.sum()):.6g} and smallest step "
            f"{float(s.diff().min()) if s.numel() > 1 else 0.0:.3g} for losses of shape {tuple(losses.shape)}. Expected as many weights "
            f"as losses, none negative, none smaller than the one before, of sum 1. Use superquantile(n, 0.5), extremile or esrm."
        )
    return s
