r"""Tilted empirical risk: one number between the smallest and the largest loss, by a log-sum-exp of any temperature.

.. math:: \tilde R_t = \frac{1}{t} \log \frac{1}{n} \sum_i e^{t \ell_i}
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fallline.core.claims import claim
from fallline.core.errors import InvalidTypeError, InvalidValueError

__all__ = ["group_term", "hierarchical_term", "term"]


def term(losses: Tensor, t: float, weights: Tensor | None = None) -> Tensor:
    r"""Tilted empirical risk of losses (examples,), 0-d; ``weights`` (examples,) of sum 1 take the place of 1 / n.

    .. math:: \tilde R_t = \frac{1}{t} \log \sum_i w_i e^{t \ell_i}, \qquad
        \nabla \tilde R_t = \sum_i \frac{w_i e^{t \ell_i}}{\sum_j w_j e^{t \ell_j}} \nabla \ell_i

    t < 0 turns away from outliers, t > 0 towards the worst; ``t=0`` is the mean, ``t=math.inf`` the largest and ``-math.inf`` the
    smallest loss. Also the dual of distributionally robust optimisation with a penalty of KL / t. Stable for all t: near zero it
    uses ``log1p`` and ``expm1``. Li et al. 2021, arXiv:2007.01162.
    """
    if math.isnan(t):
        raise InvalidValueError("t is nan. Expected a number; inf, -inf and 0 are limits. Pass for example t=-2.0.")
    _check(losses)
    w = torch.full_like(losses, 1 / len(losses)) if weights is None else weights
    if math.isinf(t):
        there = losses.masked_fill(w == 0, -t)
        return there.amax() if t > 0 else there.amin()
    mean = (w * losses).sum()
    if abs(t) < torch.finfo(losses.dtype).tiny:  # a division by it would overflow
        return mean
    off = t * (losses - mean.detach())  # any constant may be taken off and added again
    small = off.detach().abs().amax() < 1
    near = torch.log1p((w * torch.expm1(torch.where(small, off, 0.0))).sum())
    far = torch.logsumexp(off + w.log(), 0)
    return mean.detach() + torch.where(small, near, far) / t


def group_term(losses: Tensor, groups: Tensor, t: float, tau: float) -> Tensor:
    r"""Tilted risk of groups: the losses tilted by ``tau`` in each group, the groups, weighted by their sizes, by ``t``.

    .. math:: \frac{1}{t} \log \frac{1}{n} \sum_g n_g e^{t \tilde R_\tau(g)}

    ``groups`` are integer labels (examples,). t > 0 with tau = 0 is fair to small groups, t > 0 with tau < 0 robust within them;
    t = tau is the tilt of all examples (Li et al. 2021, arXiv:2007.01162, on hierarchical objectives).
    """
    return hierarchical_term(losses, [groups], [tau, t])


def hierarchical_term(losses: Tensor, levels: Sequence[Tensor], tilts: Sequence[float]) -> Tensor:
    """Tilts of tilts: ``levels`` are labels (examples,) from the finest groups to the coarsest, ``tilts`` one more than levels, the
    first within the finest groups, the last over the coarsest. Groups weigh as many examples as they hold."""
    _check(losses)
    if len(tilts) != len(levels) + 1 or any(x.shape != losses.shape for x in levels):
        raise InvalidValueError(
            f"{len(levels)} levels of shapes {[tuple(x.shape) for x in levels]} came with {len(tilts)} tilts for losses of shape "
            f"{tuple(losses.shape)}. Expected a label for each example and one tilt more than levels. Pass for example "
            f"hierarchical_term(losses, [annotator], [-2.0, 0.0])."
        )
    labels, weights = list(levels), torch.full_like(losses, 1 / len(losses))
    values = losses
    for tilt in tilts[:-1]:
        members = [labels[0] == g for g in labels[0].unique()]
        first = torch.stack([m.nonzero()[0, 0] for m in members])
        shares = torch.stack([weights[m].sum() for m in members])
        values = torch.stack([term(values[m], tilt, weights[m] / weights[m].sum()) for m in members])
        labels, weights = [x[first] for x in labels[1:]], shares
    return term(values, tilts[-1], weights)


def _check(losses: Tensor) -> None:
    if losses.dim() != 1 or len(losses) == 0:
        raise InvalidTypeError(
            f"The losses have shape {tuple(losses.shape)}. Expected one number for each example, shape (examples,). Use "
            f"reduced(oracle, reduction), or F.cross_entropy(..., reduction='none')."
        )


# -- claims -----------------------------------------------------------------------------------------------------------------

_LOSSES = (0.3, 2.5, 0.1, 1.2, 0.7)


def _losses() -> Tensor:
    return torch.tensor(_LOSSES, dtype=torch.float64, requires_grad=True)


@claim("term", "the gradient's weights are softmax(t * loss), for every t", where="arXiv:2007.01162, lemma 1")
def weights_are_a_softmax(lab):
    for t in (-1e3, -2.0, -1e-9, 0.0, 1e-9, 1e-3, 2.0, 1e3):
        x = _losses()
        found = torch.autograd.grad(term(x, t), x)[0]
        yield lab.equal(found, torch.softmax(t * x.detach(), 0))


@claim(
    "term",
    "t -> 0 is the mean, t -> inf the largest and t -> -inf the smallest loss",
    where="arXiv:2007.01162, lemma 2",
)
def limits(lab):
    x = _losses().detach()
    yield lab.equal(term(x, 0.0), x.mean())
    yield lab.close(term(x, 1e-12), x.mean() + 1e-12 * x.var(correction=0) / 2)
    yield lab.close(term(x, 1e-6) - x.mean(), 1e-6 * x.var(correction=0) / 2, rtol=1e-5)
    for t, end in ((math.inf, x.max()), (-math.inf, x.min())):
        yield lab.equal(term(x, t), end)
        yield lab.close(term(x, math.copysign(1e12, t)), end)


@claim("term", "the risk does not fall as t grows", where="arXiv:2007.01162")
def grows_with_t(lab):
    x = _losses().detach()
    tilts = (-math.inf, -10.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 10.0, math.inf)
    values = [float(term(x, t)) for t in tilts]
    for a, b in zip(values, values[1:], strict=False):
        yield lab.less(a, b)


@claim(
    "term",
    "it is the largest mean under other weights less their KL divergence from 1/n over t: the dual of penalised robust optimisation",
    where="Donsker and Varadhan's formula; arXiv:2007.01162, section 2",
)
def is_the_dual_of_kl(lab):
    x, t = _losses().detach(), 1.5
    q = torch.softmax(t * x, 0)

    def penalised(q: Tensor) -> Tensor:
        return q @ x - (q * (q * len(x)).log()).sum(-1) / t

    yield lab.equal(term(x, t), penalised(q))
    others = torch.distributions.Dirichlet(torch.ones(5, dtype=torch.float64))
    torch.manual_seed(0)
    yield lab.less(max(float(penalised(q)) for q in others.sample((500,))), float(term(x, t)))


@claim(
    "group_term",
    "with t = tau it is the tilt of all examples; with t = 0 and tau = 0 their mean",
    where="arXiv:2007.01162, on hierarchical tilting",
)
def equal_tilts_are_one(lab):
    x, groups = _losses().detach(), torch.tensor([0, 0, 1, 2, 2])
    for t in (-2.0, 0.0, 3.0):
        yield lab.equal(group_term(x, groups, t, t), term(x, t))
        nested = hierarchical_term(x, [groups, torch.tensor([0, 0, 0, 1, 1])], [t, t, t])
        yield lab.equal(nested, term(x, t))
    yield lab.equal(group_term(x, groups, math.inf, 0.0), 1.4)  # the mean of the first group


@claim(
    "term",
    "with 40 % and 80 % of the targets of a linear regression corrupted, t = -2 has the smallest test error, before L1, Huber and ERM",
    where="arXiv:2007.01162, table of robust regression",
)
def robust_regression(lab):
    made = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 5, generator=made, dtype=torch.float64)
    inputs[:, 0] = 1.0
    clean = inputs @ torch.randn(5, generator=made, dtype=torch.float64) / 5**0.5
    clean = clean + 0.3 * torch.randn(400, generator=made, dtype=torch.float64)
    risks = {
        "term": lambda r: term(r.square(), -2.0),
        "l1": lambda r: r.abs().mean(),
        "huber": lambda r: F.huber_loss(r, torch.zeros_like(r)),
        "erm": lambda r: r.square().mean(),
    }
    for share in (0.4, 0.8):
        wrong = torch.rand(300, generator=made) < share
        targets = torch.where(wrong, 5 + 5 * torch.randn(300, generator=made, dtype=torch.float64), clean[:300])
        error = {}
        for name, risk in risks.items():
            w = torch.zeros(5, dtype=torch.float64, requires_grad=True)
            solver = torch.optim.LBFGS([w], max_iter=40, line_search_fn="strong_wolfe")

            def closure(risk=risk, w=w, solver=solver, targets=targets) -> Tensor:
                solver.zero_grad()
                loss = risk(inputs[:300] @ w - targets)
                loss.backward()
                return loss

            solver.step(closure)
            error[name] = float((inputs[300:] @ w.detach() - clean[300:]).square().mean())
        for other in ("l1", "huber", "erm"):
            yield lab.less(1.2 * error["term"], error[other])
