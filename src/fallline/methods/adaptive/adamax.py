r"""AdaMax: Adam with the running maximum in place of the second moment.

.. math:: v_t = \max(b_2 v_{t-1}, |g_t| + \epsilon), \qquad u_t = \frac{m_t}{(1 - b_1^t)\, v_t}
"""

from __future__ import annotations

import torch

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper
from fallline.transforms import add_l2, descend


@transform
class ScaleByAdamax(Transform):
    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    slots = zeros("m", "v")
    nonnegative = frozenset({"v"})

    def update(self, u, at, *, m, v):
        m = m.lerp(u, 1 - self.b1)
        v = torch.maximum(self.b2 * v, u.abs() + self.eps)
        return m / ((1 - self.b1**at.t) * v), {"m": m, "v": v}


@method(
    label="Adamax",
    title="Adam: A Method for Stochastic Optimization",
    arxiv="1412.6980",
    year=2014,
    section="algorithm 2",
    notes="The paper has no eps; torch adds it inside the maximum, and so does this.",
    space={"lr": log(3e-4, 3e-1), "b1": one_minus_log(0.5, 0.99), "weight_decay": log(1e-6, 1e-2)},
    torch_state={"step": "step", "exp_avg": "adamax.m", "exp_inf": "adamax.v"},
)
def adamax(lr: Hyper = 2e-3, b1: Hyper = 0.9, b2: Hyper = 0.999, eps: Hyper = 1e-8, weight_decay: Hyper = 0.0):
    return chain(add_l2(weight_decay), ScaleByAdamax(b1, b2, eps), descend(lr))


@adamax.claim("the size of a step is at most lr", where="section 7.1")
def bounded_steps(lab):
    path = lab.follow(adamax, [lab.gradient(seed=t, scale=10.0 ** (t % 5)) for t in range(60)], lr=0.1)
    largest = max(float((b - a).abs().max()) for a, b in zip(path, path[1:], strict=False))
    yield lab.less(largest, 0.1 * (1 + 1e-9))
