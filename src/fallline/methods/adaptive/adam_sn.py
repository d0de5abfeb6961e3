r"""Subset-Norm Adam: Adam whose second moment is the squared norm of a row, or of a column where those are shorter.

.. math::
    v_t = b_2 v_{t-1} + (1 - b_2)\, \|g_{t, \mathrm{row}}\|^2, \qquad
    u_t = \frac{m_t / (1 - b_1^t)}{\sqrt{v_t / (1 - b_2^t)} + \epsilon} + \lambda p

with :math:`m_t` as in Adam; vectors have Adam's second moment.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.transforms import decay, descend
from fallline.transforms.shared_moment import ScaleBySharedAdam


@method(
    label="AdamSN",
    title="Efficient Adaptive Optimization via Subset-Norm and Subspace-Momentum",
    arxiv="2411.07120",
    year=2024,
    section="algorithm 1, for Adam",
    notes="Subsets lie along the shorter side, as in the authors' code, so that a step is smaller than Adam's by about the root of "
    "that side. The other half of the paper, momentum in a subspace that is drawn anew now and then, is not here.",
    space={"lr": log(1e-3, 3.0), "b1": one_minus_log(0.5, 0.99), "weight_decay": log(1e-4, 1.0)},
)
def adam_sn(lr: Hyper = 1e-2, b1: Hyper = 0.9, b2: Hyper = 0.999, eps: Hyper = 1e-8, weight_decay: Hyper = 0.0):
    return chain(ScaleBySharedAdam(b1, b2, eps, "norm of shorter side"), decay(weight_decay), descend(lr))


@adam_sn.claim("the second moment of an n by n matrix takes n numbers instead of n squared", where="section 2")
def small_second_moment(lab):
    yield lab.ratio(adam_sn.state_bytes() - 4.0, 4.0, equals=1 / 256)


@adam_sn.claim("in the first step every subset moves by lr in norm, whatever the gradient", where="section 2")
def subsets_move_by_lr(lab):
    for scale in (1e-3, 1e3):
        step = lab.one_step(adam_sn, scale=scale, lr=0.1, eps=0.0)
        yield lab.close(step.norm(dim=1), 0.1)
