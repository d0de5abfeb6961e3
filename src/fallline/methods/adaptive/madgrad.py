r"""MADGRAD: dual averaging with momentum, scaled by the cube root of the sum of squared gradients.

.. math::
    \lambda_t = \mathrm{lr}\sqrt{t}, \quad s_t = s_{t-1} + \lambda_t g_t, \quad v_t = v_{t-1} + \lambda_t g_t^2, \quad
    z_t = p_0 - \frac{s_t}{\sqrt[3]{v_t} + \epsilon}, \quad p_t = \beta p_{t-1} + (1 - \beta) z_t
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper
from fallline.transforms import add_l2


@transform
class Madgrad(Transform):
    lr: Hyper = 1e-2
    momentum: Hyper = 0.9
    eps: Hyper = 1e-6
    slots = {"p0": lambda step, p: p.clone(), **zeros("s", "v")}
    nonnegative = frozenset({"v"})

    def update(self, u, at, *, p0, s, v):
        weight = self.lr * at.t**0.5
        s = s + weight * u
        v = v + weight * (u * u)
        z = p0 - s / (v ** (1 / 3) + self.eps)
        return (1 - self.momentum) * (at.p - z), {"p0": p0, "s": s, "v": v}


@method(
    label="MADGRAD",
    title="Adaptivity without Compromise: A Momentumized, Adaptive, Dual Averaged Gradient Method for Stochastic Optimization",
    arxiv="2101.11075",
    year=2021,
    section="algorithm 1",
    notes="c_t = 1 - momentum throughout, as in the authors' code, which also adds eps to lr; this does not. Weight decay is an "
    "L2 penalty. The start is kept, so that the method holds three tensors for each parameter.",
    space={"lr": log(1e-4, 1.0), "momentum": one_minus_log(0.5, 0.99), "weight_decay": log(1e-6, 1e-2)},
)
def madgrad(lr: Hyper = 1e-2, momentum: Hyper = 0.9, weight_decay: Hyper = 0.0, eps: Hyper = 1e-6):
    return chain(add_l2(weight_decay), Madgrad(lr, momentum, eps))


@madgrad.claim(
    "it averages gradients, not iterates: all of them count, with weights that grow as sqrt(t)", where="section 3"
)
def all_gradients_count(lab):
    grads = [lab.gradient(seed=t) for t in range(8)]
    path = lab.follow(madgrad, grads, lr=0.1, momentum=0.0, eps=0.0)
    s = sum(0.1 * (t + 1) ** 0.5 * g for t, g in enumerate(grads))
    v = sum(0.1 * (t + 1) ** 0.5 * g * g for t, g in enumerate(grads))
    yield lab.close(path[-1], lab.start() - s / v ** (1 / 3))


@madgrad.claim(
    "the first step has size lr^(2/3) |g|^(1/3): the cube root balances the growing weights", where="section 3"
)
def cube_root(lab):
    for scale in (1e-3, 1e3):
        step = lab.one_step(madgrad, scale=scale, lr=0.1, momentum=0.0, eps=0.0)
        yield lab.close(step.abs(), 0.1 ** (2 / 3) * lab.gradient(scale=scale).abs() ** (1 / 3))
