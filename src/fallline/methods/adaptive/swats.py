r"""SWATS: starts as Adam and goes on as SGD, at the rate that Adam's own steps turn out to have along the gradient.

.. math::
    \gamma_t = \frac{\|q_t\|^2}{q_t \cdot g_t}, \quad \lambda_t = b_2 \lambda_{t-1} + (1 - b_2) \gamma_t, \qquad
    \text{switch when } t > 1,\; \mathrm{lr}\, \Bigl| \frac{\lambda_t}{1 - b_2^t} - \gamma_t \Bigr| < \epsilon

with :math:`q_t` Adam's update; from then on :math:`m_t = b_1 m_{t-1} + g_t` and
:math:`u_t = (1 - b_1)\, \Lambda\, m_t`, where :math:`\Lambda = \lambda_t / (1 - b_2^t)` stays.
"""

from __future__ import annotations

import torch

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, scalars, transform, zeros
from fallline.core.types import Hyper, Reach
from fallline.transforms import add_l2, descend


@transform
class ScaleBySwats(Transform):
    lr: Hyper = 1e-3
    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-9
    reach = Reach.TENSOR
    slots = {**zeros("m", "v"), **scalars("lam", "rate")}
    nonnegative = frozenset({"v", "rate"})

    def update(self, u, at, *, m, v, lam, rate):
        sgd = rate > 0  # the rate is fixed when Adam ends
        m = torch.where(sgd, self.b1 * m + u, m.lerp(u, 1 - self.b1))
        v = torch.where(sgd, v, v.lerp(u * u, 1 - self.b2))
        q = m / (1 - self.b1**at.t) / ((v / (1 - self.b2**at.t)).sqrt() + self.eps)
        along = (q * u).sum()
        seen = ~sgd & (along != 0)
        gamma = q.square().sum() / torch.where(seen, along, 1.0)
        lam = torch.where(seen, self.b2 * lam + (1 - self.b2) * gamma, lam)
        settled = lam / (1 - self.b2**at.t)
        switch = seen & (settled > 0) & (self.lr * (settled - gamma).abs() < self.eps) & (at.t > 1)
        update = torch.where(sgd, (1 - self.b1) * rate * m, q)
        m = torch.where(switch, 0.0, m)  # SGD's momentum starts from rest
        return update, {"m": m, "v": v, "lam": lam, "rate": torch.where(switch, settled, rate)}


@method(
    label="SWATS",
    title="Improving Generalization Performance by Switching from Adam to SGD",
    arxiv="1712.07628",
    year=2017,
    section="algorithm 1",
    notes="Every tensor switches by itself, as the paper's algorithm reads for one vector; other libraries switch all by the first. "
    "The rate found is kept relative to lr, so that schedules go on and lr is never overwritten. A rate that is not positive "
    "never switches (the paper would climb with it). One eps serves Adam and the switch, as in the paper.",
    space={"lr": log(3e-4, 3e-1), "b1": one_minus_log(0.5, 0.99), "eps": log(1e-12, 1e-5)},
)
def swats(lr: Hyper = 1e-3, b1: Hyper = 0.9, b2: Hyper = 0.999, eps: Hyper = 1e-9, weight_decay: Hyper = 0.0):
    return chain(add_l2(weight_decay), ScaleBySwats(lr, b1, b2, eps), descend(lr))


@swats.claim("until the switch it is Adam", where="algorithm 1")
def adam_at_first(lab):
    grads = [lab.gradient(seed=t) for t in range(10)]
    ours, adam = (lab.follow(m, grads, lr=0.1, eps=1e-9)[-1] for m in (swats, lab.method("adam")))
    yield lab.equal(ours, adam)


@swats.claim(
    "the rate it goes on with makes an SGD step whose projection on Adam's direction is Adam's step", where="section 3"
)
def projection(lab):
    g = lab.gradient()
    path = lab.follow(swats, [g] * 6, lr=0.1, b1=0.0)  # a constant gradient: the switch is at step 2
    adam, sgd = path[2] - path[1], path[3] - path[2]
    yield lab.close((sgd * adam).sum() / adam.norm(), adam.norm(), rtol=1e-6)
    yield lab.close(sgd, -0.1 * g * (g * g).numel() / g.abs().sum(), rtol=1e-6)
