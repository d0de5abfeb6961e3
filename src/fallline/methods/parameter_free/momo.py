r"""MoMo: SGD with momentum whose rate minimises a momentum model of the loss, cut off at a lower bound.

.. math::
    d_k &= \beta d_{k-1} + (1 - \beta) g_k, \quad \bar f_k = \beta \bar f_{k-1} + (1 - \beta) f_k, \quad
    \gamma_k = \beta \gamma_{k-1} + (1 - \beta) \langle g_k, x_k \rangle \\
    \tau_k &= \min\Big(\alpha, \frac{\big((1 + \alpha\lambda)(\bar f_k - f_* - \gamma_k) + \langle d_k, x_k \rangle\big)_+}{\|d_k\|^2}\Big),
    \quad x_{k+1} = \frac{x_k - \tau_k d_k}{1 + \alpha\lambda}

with :math:`\alpha` = ``lr``, :math:`\beta` = ``momentum``, :math:`\lambda` = ``weight_decay``. All averages start at their first term.
"""

from __future__ import annotations

import torch

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, scalars, transform, zeros
from fallline.core.types import Hyper, Reach
from fallline.transforms.polyak import polyak_rate


@transform
class Momo(Transform):
    lr: Hyper = 1.0
    momentum: Hyper = 0.9
    weight_decay: Hyper = 0.0
    f_star: Hyper = 0.0
    slots = {**zeros("d"), **scalars("f", "gamma")}
    reach = Reach.GROUP
    needs = frozenset({"loss"})

    def _means(self, u, at, d, gamma):
        new = 1 - self.momentum * (at.t > 1)
        return new, d + new * (u - d), gamma + new * ((u * at.p).sum() - gamma)

    def measure(self, u, at, *, d, f, gamma):
        _, d, gamma = self._means(u, at, d, gamma)
        return torch.stack([(d * at.p).sum() - gamma, gamma, d.square().sum()])

    def update(self, u, at, *, d, f, gamma):
        new, d, own = self._means(u, at, d, gamma)
        ahead, gamma, square = at.totals  # ahead = <d, x> - gamma, subtracted before rounding can grow
        f = f + new * (at.loss - f)
        shrink = self.lr * self.weight_decay
        tau = polyak_rate((1 + shrink) * (f - self.f_star) - shrink * gamma + ahead, square, self.lr)
        return (tau * d + shrink * at.p) / (1 + shrink), {"d": d, "f": f, "gamma": own}


@method(
    label="MoMo",
    title="MoMo: Momentum Models for Adaptive Learning Rates",
    arxiv="2305.07583",
    year=2023,
    section="algorithm 1",
    notes="Without bias correction, the authors' default; the lower bound is given, not estimated online.",
    space={"lr": log(1e-2, 10.0), "momentum": one_minus_log(0.5, 0.99), "weight_decay": log(1e-6, 1e-2)},
)
def momo(lr: Hyper = 1.0, momentum: Hyper = 0.9, weight_decay: Hyper = 0.0, f_star: Hyper = 0.0):
    return chain(Momo(lr, momentum, weight_decay, f_star))


@momo.claim("without momentum it is SPS with c = 1", where="section 3")
def is_sps(lab):
    def end(method, **values):
        return lab.minimise(method, lambda x: (lab.curvature() * x * x).sum(), steps=10, lr=0.7, **values)

    yield lab.close(end(momo, momentum=0.0), end(lab.method("sps"), c=1.0), rtol=1e-9)


@momo.claim("a rate far too large does no harm", where="section 5")
def robust_to_large_rates(lab):
    for lr in (1.0, 100.0):
        end = lab.minimise(momo, lambda x: (lab.curvature() * x * x).sum(), steps=200, lr=lr)
        yield lab.less(float(end.norm()), 0.1 * float(lab.start().norm()))
