r"""Adaptive OASIS: the Hessian's diagonal scales the gradient, and the smoothness seen in its norm gives the rate.

.. math::
    D_t = b_2 D_{t-1} + (1 - b_2)\, z \odot H z, \quad \hat D_t = \max(|D_t|, \alpha), \qquad
    \eta_t = \min\Big(\sqrt{1 + \theta_{t-1}}\, \eta_{t-1}, \frac{\|p_t - p_{t-1}\|_{\hat D_t}}{2 \|g_t - g_{t-1}\|_{\hat D_t^{-1}}}\Big), \qquad
    u_t = \eta_t \hat D_t^{-1} g_t

``lr`` = 1 is the method and multiplies :math:`\eta`; norms go over all tensors. ``optimizer.step(closure)``, as for OASIS.
"""

from __future__ import annotations

import torch

from fallline.core.gradients import HessianDiagonal
from fallline.core.hyper import Domain
from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper, Reach
from fallline.transforms import add_l2, descend
from fallline.transforms.average import clone
from fallline.transforms.smoothness import INFINITE, next_step


@transform
class ScaleByAdaOasis(Transform):
    b2: Hyper = 0.99
    alpha: Hyper = 1e-2
    initial_step: float = 1e-6
    slots = {
        **zeros("h", "d", "g"),
        "x": clone,
        "step": lambda step, p: p.new_full((), step.initial_step),
        "theta": lambda step, p: p.new_full((), INFINITE),
    }
    nonnegative = frozenset({"step", "theta"})
    gradients = {"d": HessianDiagonal()}
    domains = {"alpha": Domain("(0, inf)")}
    reach = Reach.GROUP

    def measure(self, u, at, *, h, d, g, x, step, theta):
        size = self._diagonal(at, h, d).abs().clamp(min=self.alpha)
        return torch.stack([((at.p - x).square() * size).sum(), ((u - g).square() / size).sum()])

    def update(self, u, at, *, h, d, g, x, step, theta):
        h = self._diagonal(at, h, d)
        step, theta = next_step(*at.totals, step, theta)
        return step * u / h.abs().clamp(min=self.alpha), {"h": h, "g": u, "x": at.p, "step": step, "theta": theta}

    def _diagonal(self, at, h, d):
        return torch.where(torch.as_tensor(at.t > 1), self.b2 * h + (1 - self.b2) * d, d)


@method(
    label="AdaOASIS",
    title="Doubly Adaptive Scaled Algorithm for Machine Learning Using Second-Order Information",
    arxiv="2109.05198",
    year=2021,
    section="algorithm 1, adaptive learning rate",
    notes="The paper's D_0 is a mean of several estimates, here one. Meant for gradients without much noise, as AdGD is.",
    space={"lr": log(0.1, 3.0), "b2": one_minus_log(0.9, 0.999), "alpha": log(1e-3, 1.0)},
    xfail={
        "half_precision_computes_in_float32": "without create_graph H z is a difference of gradients at rounded points",
        "bfloat16_makes_float32_progress": "the contract sets lr by the length of the first step, here tiny on purpose",
    },
)
def ada_oasis(
    lr: Hyper = 1.0, b2: Hyper = 0.99, alpha: Hyper = 1e-2, weight_decay: Hyper = 0.0, initial_step: float = 1e-6
):
    return chain(add_l2(weight_decay), ScaleByAdaOasis(b2, alpha, initial_step), descend(lr))


@ada_oasis.claim(
    "on a diagonal quadratic the rate is 1/2 from the second step on, whatever its scale", where="algorithm 1"
)
def half_of_newton(lab):
    for scale in (1e-1, 1e3):
        steps = [
            lab.minimise(ada_oasis, lambda x, a=scale: a * (lab.curvature() * x * x).sum() / 2, steps=t, alpha=1e-9)
            for t in (3, 4)
        ]
        yield lab.close(steps[1], steps[0] / 2, rtol=1e-6)


@ada_oasis.claim("it needs no rate: badly scaled coordinates end at their minima all the same", where="section 4")
def no_rate(lab):
    end = lab.minimise(ada_oasis, lambda x: 100 * (lab.curvature() * x * x).sum(), steps=60, alpha=1e-9)
    yield lab.less(float(end.abs().max()), 1e-6)
