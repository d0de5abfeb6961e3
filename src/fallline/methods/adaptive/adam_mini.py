r"""Adam-mini: Adam with one second moment for each row of a matrix instead of one for each element.

.. math::
    v_t = b_2 v_{t-1} + (1 - b_2)\, \mathrm{mean}_{\mathrm{row}}(g_t^2), \qquad
    u_t = \frac{m_t / (1 - b_1^t)}{\sqrt{v_t / (1 - b_2^t)} + \epsilon} + \lambda p

with :math:`m_t` as in Adam; a vector has one second moment. With ``num_heads``, for queries and keys, the mean is over a head's rows.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.transforms import decay, descend
from fallline.transforms.average import whole
from fallline.transforms.shared_moment import ScaleBySharedAdam


@method(
    label="AdamMini",
    title="Adam-mini: Use Fewer Learning Rates To Gain More",
    arxiv="2406.16793",
    year=2024,
    section="algorithm 1",
    notes="The paper's blocks are rows (one output neuron, one token), whole vectors, and the heads of queries and keys. A tensor "
    "does not know its heads, so queries and keys get one second moment for each row unless groups gives them a rule with "
    "num_heads, as {'*q_proj*|*k_proj*': adam_mini(1e-3, num_heads=8), '*': adam_mini(1e-3)}.",
    space={"lr": log(3e-4, 3e-1), "b1": one_minus_log(0.5, 0.99), "weight_decay": log(1e-4, 1.0)},
)
def adam_mini(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    num_heads: int = 0,
):
    if num_heads != 0:
        whole("adam_mini", "num_heads", num_heads)
    return chain(ScaleBySharedAdam(b1, b2, eps, "mean of rows", num_heads), decay(weight_decay), descend(lr))


@adam_mini.claim("half of Adam's state, but for one number a row", where="section 2")
def half_the_state(lab):
    yield lab.ratio(adam_mini.state_bytes() - 4 / 256, lab.method("adam").state_bytes(), equals=0.5)


@adam_mini.claim("where the gradients of a block are of one size it is AdamW", where="section 2.1")
def adamw_on_even_blocks(lab):
    grads = [lab.gradient(seed=t).sign() * 2.0**t for t in range(6)]
    ours, adamw = (lab.follow(m, grads, lr=0.1, weight_decay=0.1)[-1] for m in (adam_mini, lab.method("adamw")))
    yield lab.equal(ours, adamw)
