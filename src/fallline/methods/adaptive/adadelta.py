r"""Adadelta: the ratio of running root mean squares of past updates and of gradients, so that units agree.

.. math::
    v_t = \rho v_{t-1} + (1 - \rho) g_t^2, \quad
    u_t = \frac{\sqrt{d_{t-1} + \epsilon}}{\sqrt{v_t + \epsilon}}\, g_t, \quad d_t = \rho d_{t-1} + (1 - \rho) u_t^2
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper
from fallline.transforms import add_l2, descend


@transform
class ScaleByAdadelta(Transform):
    rho: Hyper = 0.9
    eps: Hyper = 1e-6
    slots = zeros("v", "d")
    nonnegative = frozenset({"v", "d"})

    def update(self, u, at, *, v, d):
        v = v.lerp(u * u, 1 - self.rho)
        u = u * ((d + self.eps) / (v + self.eps)).sqrt()
        return u, {"v": v, "d": d.lerp(u * u, 1 - self.rho)}


@method(
    label="Adadelta",
    title="ADADELTA: An Adaptive Learning Rate Method",
    arxiv="1212.5701",
    year=2012,
    section="algorithm 1",
    notes="The paper has no learning rate; lr = 1 is the paper's method.",
    space={"lr": log(1e-1, 1e3), "rho": one_minus_log(0.5, 0.99), "eps": log(1e-8, 1e-3)},
    torch_state={"step": "step", "square_avg": "adadelta.v", "acc_delta": "adadelta.d"},
)
def adadelta(lr: Hyper = 1.0, rho: Hyper = 0.9, eps: Hyper = 1e-6, weight_decay: Hyper = 0.0):
    return chain(add_l2(weight_decay), ScaleByAdadelta(rho, eps), descend(lr))


@adadelta.claim("the first step has size sqrt(eps / (1 - rho)) wherever the gradient is large", where="section 3.2")
def first_step(lab):
    step = lab.one_step(adadelta, scale=1e6, eps=1e-6, rho=0.9)
    yield lab.close(step.abs(), (1e-6 / 0.1) ** 0.5, rtol=1e-3)
