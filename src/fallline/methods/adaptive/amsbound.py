r"""AMSBound: AdaBound on the largest second moment so far, so that rates never grow before their bounds.

.. math::
    \bar v_t = \max(\bar v_{t-1}, v_t), \quad
    \eta_t = \mathrm{clip}\Bigl(\frac{c_t}{\sqrt{\bar v_t} + \epsilon},\; \rho\bigl(1 - \tfrac{1}{\gamma t + 1}\bigr),\;
    \rho\bigl(1 + \tfrac{1}{\gamma t}\bigr)\Bigr), \quad p \leftarrow p - \mathrm{lr}\, \eta_t\, m_t
"""

from __future__ import annotations

from typing import Literal

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.methods.adaptive.adabound import ScaleByAmsbound
from fallline.transforms import add_l2, descend


@method(
    label="AMSBound",
    title="Adaptive Gradient Methods with Dynamic Bound of Learning Rate",
    arxiv="1902.09843",
    year=2019,
    section="algorithm 3",
    notes="The authors' code corrects the bias and does not divide by the root of t; variant='paper' does the opposite. "
    "final_ratio is the final rate over lr.",
    space={"lr": log(1e-4, 1e-1), "final_ratio": log(1.0, 1e3), "b1": one_minus_log(0.5, 0.99)},
)
def amsbound(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    final_ratio: Hyper = 100.0,
    gamma: Hyper = 1e-3,
    variant: Literal["authors", "paper"] = "authors",
):
    return chain(add_l2(weight_decay), ScaleByAmsbound(b1, b2, eps, final_ratio, gamma, variant), descend(lr))


@amsbound.claim(
    "on f_t = 3x if t mod 3 = 1 else -x over [-1, 1] Adam drifts to the worst point +1, AMSBound to the best -1",
    where="section 3, theorem 1",
)
def non_convergence(lab):
    def where_it_ends(method, **hypers):
        return lab.online(method, lambda t: 3.0 if t % 3 == 1 else -1.0, steps=300, lr=0.5, b1=0.0, b2=0.1, **hypers)

    yield lab.less(0.9, where_it_ends(lab.method("adam")))
    yield lab.less(where_it_ends(amsbound, final_ratio=1.0), -0.9)
