r"""AdamW: Adam with the weight decay taken out of the gradient and applied to the weights.

.. math:: u_t = \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon} + \lambda p, \qquad p \leftarrow p - \mathrm{lr}\, u_t

with :math:`\hat m_t, \hat v_t` as in Adam.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.methods.adaptive.adam import scale_by_adam
from fallline.transforms import decay, descend


@method(
    label="AdamW",
    title="Decoupled Weight Decay Regularization",
    arxiv="1711.05101",
    year=2017,
    section="algorithm 2",
    notes="The decay is multiplied by lr, as in torch; in the paper's algorithm it is multiplied by the schedule alone.",
    space={"lr": log(3e-4, 3e-1), "b1": one_minus_log(0.5, 0.99), "weight_decay": log(1e-4, 1.0)},
    torch_state={
        "step": "step",
        "exp_avg": ("adam.m", "amsgrad.m"),
        "exp_avg_sq": ("adam.v", "amsgrad.v"),
        "max_exp_avg_sq": "amsgrad.v_max",
    },
)
def adamw(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 1e-2,
    amsgrad: bool = False,
):
    return chain(scale_by_adam(b1, b2, eps, amsgrad), decay(weight_decay), descend(lr))


@adamw.claim(
    "the decay does not depend on the gradient: without one, weights shrink by the factor 1 - lr lambda", where="eq. 1"
)
def decoupled(lab):
    step = lab.one_step(adamw, scale=0.0, lr=0.1, weight_decay=0.5)
    yield lab.close(step, -0.1 * 0.5 * lab.start())


@adamw.claim("with b1 = b2 = 0 and eps = 0 it is sign descent", where="Balles & Hennig, arXiv:1705.07774, section 1")
def sign_descent(lab):
    step = lab.one_step(adamw, lr=0.1, b1=0.0, b2=0.0, eps=0.0, weight_decay=0.0)
    yield lab.close(step, -0.1 * lab.gradient().sign())
