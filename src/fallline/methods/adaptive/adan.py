r"""Adan: Nesterov's look-ahead for Adam, from the running mean of gradient differences instead of another gradient.

.. math::
    m_t = b_1 m_{t-1} + (1 - b_1) g_t, \quad v_t = b_2 v_{t-1} + (1 - b_2) d_t, \quad
    n_t = b_3 n_{t-1} + (1 - b_3) (g_t + b_2 d_t)^2, \quad
    u_t = \frac{\hat m_t + b_2 \hat v_t}{\sqrt{\hat n_t} + \epsilon}

with :math:`d_t = g_t - g_{t-1}`, :math:`d_1 = 0`, and hats for means corrected for their start; then
:math:`p \leftarrow (p - \mathrm{lr}\, u_t) / (1 + \mathrm{lr}\, \lambda)`.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper
from fallline.transforms import decay, descend, proximal_decay


@transform
class ScaleByAdan(Transform):
    b1: Hyper = 0.98
    b2: Hyper = 0.92
    b3: Hyper = 0.99
    eps: Hyper = 1e-8
    slots = zeros("g", "m", "v", "n")
    nonnegative = frozenset({"n"})

    def update(self, u, at, *, g, m, v, n):
        d = (u - g) * (at.t > 1)
        m = m.lerp(u, 1 - self.b1)
        v = v.lerp(d, 1 - self.b2)
        n = n.lerp((u + self.b2 * d) ** 2, 1 - self.b3)
        m_hat, v_hat, n_hat = (x / (1 - b**at.t) for x, b in ((m, self.b1), (v, self.b2), (n, self.b3)))
        return (m_hat + self.b2 * v_hat) / (n_hat.sqrt() + self.eps), {"g": u, "m": m, "v": v, "n": n}


@method(
    label="Adan",
    title="Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models",
    arxiv="2208.06677",
    year=2022,
    section="algorithm 1",
    notes="b1, b2, b3 are those of the authors' code, one minus the paper's; the bias corrections are the code's too. "
    "proximal=False decays by 1 - lr lambda, as the code's no_prox.",
    aliases={"betas": ("b1", "b2", "b3")},
    space={"lr": log(3e-4, 3e-1), "b1": one_minus_log(0.8, 0.99), "weight_decay": log(1e-4, 1.0)},
    xfail={"movement_dies_out": "the mean forgets over fifty steps, and the divisor shrinks along with it"},
)
def adan(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.98,
    b2: Hyper = 0.92,
    b3: Hyper = 0.99,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    proximal: bool = True,
):
    scale = ScaleByAdan(b1, b2, b3, eps)
    if proximal:
        return chain(scale, descend(lr), proximal_decay(lr * weight_decay))
    return chain(scale, decay(weight_decay), descend(lr))


@adan.claim("under a constant gradient every step has size lr: there is nothing to look ahead to", where="section 3")
def constant_gradient(lab):
    path = lab.follow(adan, [lab.gradient()] * 20, lr=0.1)
    for before, after in zip(path, path[1:], strict=False):
        yield lab.close((after - before).abs(), 0.1, rtol=1e-6)


@adan.claim(
    "the decay is a proximal step: without a gradient weights are divided by 1 + lr lambda", where="algorithm 1"
)
def proximal_step(lab):
    step = lab.one_step(adan, scale=0.0, lr=0.1, weight_decay=0.5)
    yield lab.close(lab.start() + step, lab.start() / (1 + 0.1 * 0.5))
