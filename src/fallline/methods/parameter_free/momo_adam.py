r"""MoMo-Adam: Adam whose rate minimises a momentum model of the loss, cut off at a lower bound.

.. math::
    \tau_k = \min\Big(\frac{\alpha}{\rho_k}, \frac{\big((1 + \alpha\lambda)(\bar f_k - \rho_k f_* - \gamma_k) +
    \langle d_k, x_k \rangle\big)_+}{\|d_k\|^2_{D_k^{-1}}}\Big), \qquad
    x_{k+1} = \frac{x_k - \tau_k D_k^{-1} d_k}{1 + \alpha\lambda}, \qquad D_k = \sqrt{v_k / (1 - b_2^k)} + \epsilon

with d, :math:`\bar f` and :math:`\gamma` the averages of MoMo at rate :math:`b_1`, started at zero, v that of Adam,
:math:`\rho_k = 1 - b_1^k`, :math:`\alpha` = ``lr``, :math:`\lambda` = ``weight_decay``.
"""

from __future__ import annotations

import torch

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, scalars, transform, zeros
from fallline.core.types import Hyper, Reach
from fallline.transforms.polyak import polyak_rate


@transform
class MomoAdam(Transform):
    lr: Hyper = 1e-2
    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    weight_decay: Hyper = 0.0
    f_star: Hyper = 0.0
    slots = {**zeros("d", "v"), **scalars("f", "gamma")}
    nonnegative = frozenset({"v"})
    reach = Reach.GROUP
    needs = frozenset({"loss"})

    def _means(self, u, at, d, v, gamma):
        v = v.lerp(u * u, 1 - self.b2)
        root = (v / (1 - self.b2**at.t)).sqrt() + self.eps
        gamma = self.b1 * gamma + (1 - self.b1) * (u * at.p).sum()
        return d.lerp(u, 1 - self.b1), v, root, gamma

    def measure(self, u, at, *, d, v, f, gamma):
        d, _, root, gamma = self._means(u, at, d, v, gamma)
        return torch.stack([(d * at.p).sum() - gamma, gamma, (d * d / root).sum()])

    def update(self, u, at, *, d, v, f, gamma):
        d, v, root, own = self._means(u, at, d, v, gamma)
        ahead, gamma, square = at.totals  # ahead = <d, x> - gamma, subtracted before rounding can grow
        f = self.b1 * f + (1 - self.b1) * at.loss
        rho, shrink = 1 - self.b1**at.t, self.lr * self.weight_decay
        gap = (1 + shrink) * (f - rho * self.f_star) - shrink * gamma + ahead
        tau = polyak_rate(gap, square, self.lr / rho)
        return (tau * d / root + shrink * at.p) / (1 + shrink), {"d": d, "v": v, "f": f, "gamma": own}


@method(
    label="MoMoAdam",
    title="MoMo: Momentum Models for Adaptive Learning Rates",
    arxiv="2305.07583",
    year=2023,
    section="algorithm 2",
    notes="eps is added to the root of the corrected v. The lower bound is given, not estimated online.",
    space={"lr": log(1e-3, 1.0), "b1": one_minus_log(0.5, 0.99), "weight_decay": log(1e-4, 1.0)},
)
def momo_adam(
    lr: Hyper = 1e-2,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    f_star: Hyper = 0.0,
):
    return chain(MomoAdam(lr, b1, b2, eps, weight_decay, f_star))


@momo_adam.claim("with a small rate it is Adam", where="section 4")
def is_adam(lab):
    def end(method):
        return lab.minimise(method, lambda x: (lab.curvature() * x * x).sum(), steps=20, lr=1e-3)

    yield lab.close(end(momo_adam) - lab.start(), end(lab.method("adam")) - lab.start(), rtol=1e-6)


@momo_adam.claim("once lr is beyond what the model allows, it no longer matters; in Adam it does", where="section 5")
def robust_to_large_rates(lab):
    def end(method, lr):
        return lab.minimise(method, lambda x: (lab.curvature() * x * x).sum(), steps=100, lr=lr)

    yield lab.equal(end(momo_adam, 100.0), end(momo_adam, 3.0))
    yield lab.less(10 * float(end(momo_adam, 100.0).norm()), float(end(lab.method("adam"), 100.0).norm()))
