r"""OPT-AMSGrad: AMSGrad that steps ahead along its guess of the next gradient, and takes the guess back when it has seen it.

.. math::
    m_t = b_1 m_{t-1} + (1 - b_1) g_t, \quad v_t = b_2 v_{t-1} + (1 - b_2)(g_t - \tilde g_t)^2, \quad
    \bar v_t = \max(\bar v_{t-1}, v_t, \epsilon), \\
    w_t = w_{t-1} - \mathrm{lr}\, \frac{m_t}{\sqrt{\bar v_t}}, \qquad
    p_{t+1} = w_t - \mathrm{lr}\, \frac{b_1 m_{t-1} + (1 - b_1)\, \tilde g_{t+1}}{\sqrt{\bar v_t}}

with the guess :math:`\tilde g_{t+1} = g_t`, so that :math:`u_t = 2 q_t - q_{t-1}`, :math:`q_t = m_t / \sqrt{\bar v_t}`.
"""

from __future__ import annotations

import torch

from fallline.core.hyper import Domain
from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper
from fallline.transforms import add_l2, descend


@transform
class ScaleByOptAmsgrad(Transform):
    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    slots = zeros("g", "m", "v", "v_max")
    nonnegative = frozenset({"v", "v_max"})
    domains = {"eps": Domain("(0, inf)")}

    def update(self, u, at, *, g, m, v, v_max):
        before = m / v_max.clamp(min=self.eps).sqrt()
        m = m.lerp(u, 1 - self.b1)
        v = v.lerp((u - g) ** 2, 1 - self.b2)
        v_max = torch.maximum(v_max, v)
        return 2 * m / v_max.clamp(min=self.eps).sqrt() - before, {"g": u, "m": m, "v": v, "v_max": v_max}


@method(
    label="OptAMSGrad",
    title="An Optimistic Acceleration of AMSGrad for Nonconvex Optimization",
    arxiv="1903.01435",
    year=2019,
    section="algorithm 2",
    notes="The paper leaves the guess of the next gradient open and extrapolates from the last five in its experiments; here the "
    "guess is the last gradient, which needs one buffer and no linear solve. The paper's eps starts the second moment; here it "
    "bounds the maximum from below, which is the same after the first step. No bias correction. What was guessed is taken "
    "back with the present lr.",
    space={"lr": log(3e-5, 3e-2), "b1": one_minus_log(0.5, 0.99), "eps": log(1e-12, 1e-4)},
)
def opt_amsgrad(lr: Hyper = 1e-3, b1: Hyper = 0.9, b2: Hyper = 0.999, eps: Hyper = 1e-8, weight_decay: Hyper = 0.0):
    return chain(add_l2(weight_decay), ScaleByOptAmsgrad(b1, b2, eps), descend(lr))


@opt_amsgrad.claim(
    "with the last gradient as the guess it is optimistic mirror descent: u_t = 2 q_t - q_{t-1}", where="alg. 2"
)
def optimistic(lab):
    grads = [lab.gradient(seed=t) for t in range(3)]
    path = lab.follow(opt_amsgrad, grads, lr=0.1, b1=0.0, b2=0.5, eps=1e6)
    yield lab.close(path[3] - path[2], -0.1 * (2 * grads[2] - grads[1]) / 1e3)


@opt_amsgrad.claim(
    "gradients that were foreseen do not slow it down: only the error of the guess is accumulated",
    where="the regret bound",
)
def foreseen_gradients(lab):
    grads = [lab.gradient()] * 30
    ours, ams = (lab.follow(m, grads, lr=0.1, b2=0.9) for m in (opt_amsgrad, lab.method("amsgrad")))
    yield lab.less(float((ams[-1] - ams[0]).abs().max()), float((ours[-1] - ours[0]).abs().min()))
