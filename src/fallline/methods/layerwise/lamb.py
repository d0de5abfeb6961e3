r"""LAMB: Adam with decay, each tensor's update rescaled to the length of the tensor.

.. math:: r_t = \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon} + \lambda p, \qquad u_t = \frac{\|p\|}{\|r_t\|}\, r_t
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.methods.adaptive.adam import scale_by_adam
from fallline.transforms import decay, descend, trust


@method(
    label="LAMB",
    title="Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
    arxiv="1904.00962",
    year=2019,
    section="algorithm 2",
    notes="phi is the identity and the ratio is 1 where either norm is zero (the paper leaves both open). Bias is corrected as "
    "in the paper; some implementations leave that out or clip the gradient first.",
    space={"lr": log(1e-3, 1.0), "b1": one_minus_log(0.5, 0.99), "weight_decay": log(1e-4, 1.0)},
    xfail={
        "movement_dies_out": "every update is rescaled to the tensor's length, however small the momentum has become"
    },
)
def lamb(lr: Hyper = 1e-3, b1: Hyper = 0.9, b2: Hyper = 0.999, eps: Hyper = 1e-6, weight_decay: Hyper = 0.0):
    return chain(scale_by_adam(b1, b2, eps), decay(weight_decay), trust(), descend(lr))


@lamb.claim("every tensor moves by lr times its own length", where="algorithm 2")
def relative_length(lab):
    for scale in (1e-3, 1e3):
        yield lab.close(lab.one_step(lamb, scale=scale, lr=0.02).norm(), 0.02 * lab.start().norm(), rtol=1e-9)
