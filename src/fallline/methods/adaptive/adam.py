r"""Adam: the ratio of running means of the gradient and of its square, both corrected for their start at zero.

.. math::
    m_t = b_1 m_{t-1} + (1 - b_1) g_t, \quad v_t = b_2 v_{t-1} + (1 - b_2) g_t^2, \quad
    u_t = \frac{m_t / (1 - b_1^t)}{\sqrt{v_t / (1 - b_2^t)} + \epsilon}
"""

from __future__ import annotations

import torch

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper
from fallline.transforms import add_l2, decay, descend


@transform
class ScaleByAdam(Transform):
    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    slots = zeros("m", "v")
    nonnegative = frozenset({"v"})

    def update(self, u, at, *, m, v):
        m = m.lerp(u, 1 - self.b1)
        v = v.lerp(u * u, 1 - self.b2)
        m_hat = m / (1 - self.b1**at.t)
        v_hat = v / (1 - self.b2**at.t)
        return m_hat / (v_hat.sqrt() + self.eps), {"m": m, "v": v}


@transform
class ScaleByAmsgrad(Transform):
    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    slots = zeros("m", "v", "v_max")
    nonnegative = frozenset({"v", "v_max"})

    def update(self, u, at, *, m, v, v_max):
        m = m.lerp(u, 1 - self.b1)
        v = v.lerp(u * u, 1 - self.b2)
        v_max = torch.maximum(v_max, v)
        m_hat = m / (1 - self.b1**at.t)
        v_hat = v_max / (1 - self.b2**at.t)
        return m_hat / (v_hat.sqrt() + self.eps), {"m": m, "v": v, "v_max": v_max}


def scale_by_adam(b1, b2, eps, amsgrad=False):
    """Adam's ratio, or AMSGrad's with the largest second moment so far."""
    return (ScaleByAmsgrad if amsgrad else ScaleByAdam)(b1, b2, eps)


@method(
    label="Adam",
    title="Adam: A Method for Stochastic Optimization",
    arxiv="1412.6980",
    year=2014,
    section="algorithm 1",
    space={"lr": log(3e-4, 3e-1), "b1": one_minus_log(0.5, 0.99), "eps": log(1e-10, 1e-3)},
    torch_state={
        "step": "step",
        "exp_avg": ("adam.m", "amsgrad.m"),
        "exp_avg_sq": ("adam.v", "amsgrad.v"),
        "max_exp_avg_sq": "amsgrad.v_max",
    },
)
def adam(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    amsgrad: bool = False,
    decoupled_weight_decay: bool = False,
):
    scale = scale_by_adam(b1, b2, eps, amsgrad)
    if decoupled_weight_decay:
        return chain(scale, decay(weight_decay), descend(lr))
    return chain(add_l2(weight_decay), scale, descend(lr))


@adam.claim("the first step has size lr in every coordinate, whatever the scale of the gradient", where="section 2.1")
def first_step_is_lr(lab):
    for scale in (1e-3, 1.0, 1e3):
        yield lab.close(lab.one_step(adam, scale=scale, lr=0.01).abs(), 0.01, rtol=1e-3)
