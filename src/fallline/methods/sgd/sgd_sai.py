r"""SGD-SaI: momentum SGD with a rate for each tensor, its first gradient's norm over its standard deviation.

.. math::
    s = \frac{\|g_1\|}{\mathrm{std}(g_1) + \epsilon}, \qquad m_t = \beta m_{t-1} + (1 - \beta)\, g_t, \quad m_1 = g_1, \qquad
    p \leftarrow p - \mathrm{lr}\,(s\, m_t + \lambda p)
"""

from __future__ import annotations

import torch

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, scalars, transform
from fallline.core.types import Hyper, Reach
from fallline.transforms import decay, descend
from fallline.transforms import momentum as with_momentum


@transform
class ScaleByFirstSnr(Transform):
    eps: Hyper = 1e-8
    reach = Reach.TENSOR
    slots = scalars("s")
    nonnegative = frozenset({"s"})

    def update(self, u, at, *, s):
        spread = u.std() if u.numel() > 1 else torch.zeros_like(s)
        snr = torch.where(spread > 0, u.norm() / (spread + self.eps), 1.0) * (u != 0).any()
        s = torch.where(s > 0, s, snr)
        return s * u, {"s": s}


@method(
    label="SGDSaI",
    title="No More Adam: Learning Rate Scaling at Initialization is All You Need",
    arxiv="2412.11768",
    year=2024,
    section="algorithm 1",
    notes="As in the paper each tensor has its own rate; version 1.0.4 of the authors' code divides all by the largest. A gradient "
    "without spread (one element, or all equal) gives the rate 1, and the first gradient that is not zero counts.",
    space={"lr": log(1e-4, 1.0), "momentum": one_minus_log(0.5, 0.99), "weight_decay": log(1e-4, 1.0)},
)
def sgd_sai(lr: Hyper = 1e-2, momentum: Hyper = 0.9, eps: Hyper = 1e-8, weight_decay: Hyper = 1e-2):
    return chain(ScaleByFirstSnr(eps), with_momentum(momentum, dampening=momentum), decay(weight_decay), descend(lr))


@sgd_sai.claim(
    "half of AdamW's state: one buffer, and a rate for each tensor that the first gradient fixes", where="section 1"
)
def half_of_adamw(lab):
    yield lab.ratio(round(sgd_sai.state_bytes(), 3), lab.method("adamw").state_bytes(), equals=0.5)
    g, h = lab.gradient(), lab.gradient(seed=2, scale=50.0)
    path = lab.follow(sgd_sai, [g, h], lr=0.01, momentum=0.0, eps=0.0, weight_decay=0.0)
    yield lab.close(path[2] - path[1], -0.01 * g.norm() / g.std() * h)
