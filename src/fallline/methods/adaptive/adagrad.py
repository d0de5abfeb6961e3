r"""AdaGrad: divide by the root of the sum of all squared gradients so far.

.. math::
    s_t = s_{t-1} + g_t^2, \qquad u_t = \frac{1}{1 + (t - 1)\,\mathrm{lr\_decay}} \cdot \frac{g_t}{\sqrt{s_t} + \epsilon}
"""

from __future__ import annotations

import torch

from fallline.core.method import method
from fallline.core.space import log
from fallline.core.transform import Transform, chain, transform
from fallline.core.types import Hyper
from fallline.transforms import add_l2, descend


@transform
class ScaleByAdagrad(Transform):
    lr_decay: Hyper = 0.0
    eps: Hyper = 1e-10
    initial_accumulator_value: float = 0.0
    slots = {"s": lambda step, p: torch.full_like(p, step.initial_accumulator_value)}
    nonnegative = frozenset({"s"})

    def update(self, u, at, *, s):
        s = s + u * u
        return u / (s.sqrt() + self.eps) / (1 + (at.t - 1) * self.lr_decay), {"s": s}


@method(
    label="Adagrad",
    title="Adaptive Subgradient Methods for Online Learning and Stochastic Optimization",
    reference="Duchi, Hazan & Singer, JMLR 12, 2011",
    year=2011,
    section="figure 1, diagonal",
    space={"lr": log(1e-3, 1.0), "eps": log(1e-12, 1e-4), "weight_decay": log(1e-6, 1e-2)},
    torch_state={"step": "step", "sum": "adagrad.s"},
)
def adagrad(
    lr: Hyper = 1e-2,
    lr_decay: Hyper = 0.0,
    weight_decay: Hyper = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: Hyper = 1e-10,
):
    return chain(add_l2(weight_decay), ScaleByAdagrad(lr_decay, eps, initial_accumulator_value), descend(lr))


@adagrad.claim("under a constant gradient the t-th step has size lr / sqrt(t)", where="figure 1")
def steps_shrink_as_root_t(lab):
    path = lab.follow(adagrad, [lab.gradient()] * 100, lr=0.1)
    for t in (1, 4, 100):
        yield lab.close((path[t] - path[t - 1]).abs(), 0.1 / t**0.5, rtol=1e-6)
