r"""NAdam: Adam that looks ahead along its first moment, with a slowly warming momentum.

.. math::
    \mu_t = b_1 (1 - \tfrac12\, 0.96^{t \psi}), \qquad
    u_t = \Bigl(\frac{1 - \mu_t}{1 - \prod_{i \le t} \mu_i}\, g_t + \frac{\mu_{t+1}}{1 - \prod_{i \le t+1} \mu_i}\, m_t\Bigr)
    \Big/ (\sqrt{\hat v_t} + \epsilon)
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper
from fallline.transforms import add_l2, decay, descend


@transform
class ScaleByNadam(Transform):
    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    momentum_decay: Hyper = 4e-3
    slots = {**zeros("m", "v"), "product": lambda step, p: p.new_ones(())}
    nonnegative = frozenset({"v"})

    def update(self, u, at, *, m, v, product):
        mu, mu_next = (self.b1 * (1 - 0.5 * 0.96 ** (t * self.momentum_decay)) for t in (at.t, at.t + 1))
        product = product * mu
        m = m.lerp(u, 1 - self.b1)
        v = v.lerp(u * u, 1 - self.b2)
        ahead = (1 - mu) / (1 - product) * u + mu_next / (1 - product * mu_next) * m
        return ahead / ((v / (1 - self.b2**at.t)).sqrt() + self.eps), {"m": m, "v": v, "product": product}


@method(
    label="NAdam",
    title="Incorporating Nesterov Momentum into Adam",
    reference="Dozat, ICLR 2016 workshop",
    year=2016,
    section="algorithm 8 of the report",
    notes="The paper's momentum schedule is 0.96^(t/250); torch writes 0.96^(t psi) with psi = 0.004.",
    space={"lr": log(3e-4, 3e-1), "b1": one_minus_log(0.5, 0.99), "weight_decay": log(1e-6, 1e-2)},
    torch_state={"step": "step", "exp_avg": "nadam.m", "exp_avg_sq": "nadam.v", "mu_product": "nadam.product"},
)
def nadam(
    lr: Hyper = 2e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    momentum_decay: Hyper = 4e-3,
    decoupled_weight_decay: bool = False,
):
    scale = ScaleByNadam(b1, b2, eps, momentum_decay)
    if decoupled_weight_decay:
        return chain(scale, decay(weight_decay), descend(lr))
    return chain(add_l2(weight_decay), scale, descend(lr))


@nadam.claim("under a constant gradient it settles at steps of size lr, as Adam does", where="section 3.2")
def steady_state(lab):
    path = lab.follow(nadam, [lab.gradient()] * 400, lr=0.1)
    yield lab.close((path[-1] - path[-2]).abs(), 0.1, rtol=0.02)
