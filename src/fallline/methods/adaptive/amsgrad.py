r"""AMSGrad: Adam divided by the largest second moment so far, so that step sizes never grow.

.. math:: \bar v_t = \max(\bar v_{t-1}, v_t), \qquad u_t = \frac{m_t / (1 - b_1^t)}{\sqrt{\bar v_t / (1 - b_2^t)} + \epsilon}
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.methods.adaptive.adam import scale_by_adam
from fallline.transforms import add_l2, descend


@method(
    label="AMSGrad",
    title="On the Convergence of Adam and Beyond",
    arxiv="1904.09237",
    year=2018,
    section="algorithm 2",
    notes="The paper has no bias correction; the default here is torch's form, which corrects and takes the maximum of the "
    "uncorrected second moment.",
    space={"lr": log(3e-4, 3e-1), "b1": one_minus_log(0.5, 0.99), "eps": log(1e-10, 1e-3)},
)
def amsgrad(lr: Hyper = 1e-3, b1: Hyper = 0.9, b2: Hyper = 0.999, eps: Hyper = 1e-8, weight_decay: Hyper = 0.0):
    return chain(add_l2(weight_decay), scale_by_adam(b1, b2, eps, amsgrad=True), descend(lr))


@amsgrad.claim(
    "on f_t = 3x if t mod 3 = 1 else -x over [-1, 1] Adam drifts to the worst point +1, AMSGrad to the best -1",
    where="section 3, theorem 1",
)
def non_convergence(lab):
    def where_it_ends(method):
        return lab.online(method, lambda t: 3.0 if t % 3 == 1 else -1.0, steps=3000, lr=0.5, b1=0.0, b2=0.1)

    yield lab.less(0.9, where_it_ends(lab.method("adam")))
    yield lab.less(where_it_ends(amsgrad), -0.9)
