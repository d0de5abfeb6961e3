r"""RMSProp: divide by the root of a running mean of squared gradients.

.. math:: v_t = b_2 v_{t-1} + (1 - b_2) g_t^2, \qquad u_t = g_t / (\sqrt{v_t} + \epsilon)

Centred, the running mean of the gradient is taken off: :math:`\sqrt{v_t - \bar g_t^2}` (Graves, arXiv:1308.0850).
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper
from fallline.transforms import add_l2, descend
from fallline.transforms import momentum as with_momentum


@transform
class ScaleByRms(Transform):
    b2: Hyper = 0.99
    eps: Hyper = 1e-8
    bias_correction: bool = False
    slots = zeros("v")
    nonnegative = frozenset({"v"})

    def update(self, u, at, *, v):
        v = v.lerp(u * u, 1 - self.b2)
        v_hat = v / (1 - self.b2**at.t) if self.bias_correction else v
        return u / (v_hat.sqrt() + self.eps), {"v": v}


@transform
class ScaleByCentredRms(Transform):
    b2: Hyper = 0.99
    eps: Hyper = 1e-8
    slots = zeros("m", "v")
    nonnegative = frozenset({"v"})

    def update(self, u, at, *, m, v):
        m = m.lerp(u, 1 - self.b2)
        v = v.lerp(u * u, 1 - self.b2)
        # a variance; rounding must not take it below zero
        return u / ((v - m * m).clamp(min=0).sqrt() + self.eps), {"m": m, "v": v}


@method(
    label="RMSprop",
    title="Lecture 6.5, rmsprop: divide the gradient by a running average of its recent magnitude",
    reference="Tieleman & Hinton, COURSERA: Neural Networks for Machine Learning, 2012",
    year=2012,
    aliases={"alpha": "b2"},
    space={"lr": log(3e-5, 1e-1), "momentum": one_minus_log(0.5, 0.99), "eps": log(1e-10, 1e-3)},
    torch_state={
        "step": "step",
        "square_avg": ("rms.v", "centred_rms.v"),
        "grad_avg": "centred_rms.m",
        "momentum_buffer": "momentum.m",
    },
)
def rmsprop(
    lr: Hyper = 1e-2,
    b2: Hyper = 0.99,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    momentum: Hyper = 0.0,
    centered: bool = False,
):
    scale = ScaleByCentredRms(b2, eps) if centered else ScaleByRms(b2, eps)
    ball = [with_momentum(momentum)] if momentum != 0 else []
    return chain(add_l2(weight_decay), scale, *ball, descend(lr))


@rmsprop.claim("the step does not change when the gradient is scaled", where="slide 29")
def scale_invariance(lab):
    small, large = (lab.one_step(rmsprop, scale=s, lr=0.1) for s in (1.0, 1e4))
    yield lab.close(small, large, rtol=1e-5)
