r"""AdaBound: Adam whose rate for each coordinate is clipped between two bounds that close in on SGD's rate.

.. math::
    \eta_t = \mathrm{clip}\Bigl(\frac{c_t}{\sqrt{v_t} + \epsilon},\; \rho\bigl(1 - \tfrac{1}{\gamma t + 1}\bigr),\;
    \rho\bigl(1 + \tfrac{1}{\gamma t}\bigr)\Bigr), \qquad p \leftarrow p - \mathrm{lr}\, \eta_t\, m_t

with :math:`m_t, v_t` as in Adam and :math:`c_t` its bias correction; the final rate is :math:`\mathrm{lr}\,\rho`.
"""

from __future__ import annotations

from typing import Literal

import torch

from fallline.core.hyper import Domain
from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper
from fallline.transforms import add_l2, descend


@transform
class ScaleByAdabound(Transform):
    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    final_ratio: Hyper = 100.0
    gamma: Hyper = 1e-3
    variant: str = "authors"
    slots = zeros("m", "v")
    nonnegative = frozenset({"v"})
    domains = {"final_ratio": Domain("[0, inf)"), "gamma": Domain("(0, inf)")}

    def update(self, u, at, *, m, v):
        m = m.lerp(u, 1 - self.b1)
        v = v.lerp(u * u, 1 - self.b2)
        return self._bounded(v, at.t) * m, {"m": m, "v": v}

    def _bounded(self, v, t):
        lower = self.final_ratio * (1 - 1 / (self.gamma * t + 1))
        upper = self.final_ratio * (1 + 1 / (self.gamma * t))
        if self.variant == "paper":
            return (1 / (v.sqrt() + self.eps)).clamp(lower, upper) / t**0.5
        correction = (1 - self.b2**t) ** 0.5 / (1 - self.b1**t)
        return (correction / (v.sqrt() + self.eps)).clamp(lower, upper)


@transform
class ScaleByAmsbound(ScaleByAdabound):
    slots = zeros("m", "v", "v_max")
    nonnegative = frozenset({"v", "v_max"})

    def update(self, u, at, *, m, v, v_max):
        m = m.lerp(u, 1 - self.b1)
        v = v.lerp(u * u, 1 - self.b2)
        v_max = torch.maximum(v_max, v)
        return self._bounded(v_max, at.t) * m, {"m": m, "v": v, "v_max": v_max}


@method(
    label="AdaBound",
    title="Adaptive Gradient Methods with Dynamic Bound of Learning Rate",
    arxiv="1902.09843",
    year=2019,
    section="algorithm 2",
    notes="The authors' code, which everyone follows, corrects the bias and does not divide by the root of t; variant='paper' does "
    "the opposite, as algorithm 2. final_ratio is the final rate over lr: the authors' 0.1 over 1e-3, which their code also "
    "keeps when lr moves.",
    space={"lr": log(1e-4, 1e-1), "final_ratio": log(1.0, 1e3), "b1": one_minus_log(0.5, 0.99)},
)
def adabound(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    final_ratio: Hyper = 100.0,
    gamma: Hyper = 1e-3,
    variant: Literal["authors", "paper"] = "authors",
):
    return chain(add_l2(weight_decay), ScaleByAdabound(b1, b2, eps, final_ratio, gamma, variant), descend(lr))


@adabound.claim("the bounds meet: in the end it is momentum SGD with the final rate", where="section 4")
def ends_as_sgd(lab):
    grads = [lab.gradient(seed=t) for t in range(40)]
    ours = lab.follow(adabound, grads, lr=1e-3, final_ratio=100.0, gamma=1e9)
    yield lab.close(ours[-1], lab.follow(lab.method("sgdw"), grads, lr=0.1 * 0.1, weight_decay=0.0)[-1], rtol=1e-6)


@adabound.claim("every coordinate's rate lies between the bounds", where="equation 1")
def within_bounds(lab):
    for scale in (1e-6, 1e6):
        rate = (lab.one_step(adabound, scale=scale, lr=1e-3, b1=0.0, gamma=0.5) / lab.gradient(scale=scale)).abs()
        yield lab.less(0.1 * (1 - 1 / 1.5) * (1 - 1e-9), float(rate.min()))
        yield lab.less(float(rate.max()), 0.1 * (1 + 1 / 0.5) * (1 + 1e-9))
