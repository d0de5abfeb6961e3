r"""MARS-Lion: the sign of a momentum of gradients that are corrected by their change since the last iterate.

.. math::
    c_t &= g_t + \gamma \frac{b_1}{1 - b_1} (g_t - h_t), \qquad \tilde c_t = \frac{c_t}{\max(1, \|c_t\|)} \\
    m_t &= b_1 m_{t-1} + (1 - b_1) \tilde c_t, \qquad p \leftarrow p - \mathrm{lr}\, (\mathrm{sign}(m_t) + \lambda p)

:math:`h_t` is the last step's gradient or, with ``exact``, this batch's gradient at the last iterate, which costs another gradient:
``optimizer.step(closure)``.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.transforms import correct, decay, descend, momentum, sign


@method(
    label="MARSLion",
    title="MARS: Unleashing the Power of Variance Reduction for Training Large Models",
    arxiv="2411.10438",
    year=2024,
    section="algorithm 3",
    notes="The sign does not see the factor 1 - b1, so torch's momentum serves. Norms are those of each tensor; nothing is corrected at "
    "the first step.",
    space={
        "lr": log(3e-5, 3e-2),
        "gamma": log(1e-3, 1e-1),
        "b1": one_minus_log(0.5, 0.99),
        "weight_decay": log(1e-3, 3.0),
    },
    xfail={"movement_dies_out": "a sign walk: the momentum shrinks, but its sign stays"},
)
def mars_lion(lr: Hyper = 3e-4, b1: Hyper = 0.95, weight_decay: Hyper = 0.0, gamma: Hyper = 0.025, exact: bool = False):
    return chain(correct(gamma * b1 / (1 - b1), exact), momentum(b1), sign(), decay(weight_decay), descend(lr))


@mars_lion.claim("with gamma = 0 and gradients below norm 1 it is Signum", where="section 3.2.2")
def signum_without_correction(lab):
    grads = [lab.gradient(seed=t, scale=0.01) for t in range(10)]
    ours = lab.follow(mars_lion, grads, lr=0.01, gamma=0.0, weight_decay=0.1)
    yield lab.equal(ours[-1], lab.follow(lab.method("signum"), grads, lr=0.01, momentum=0.95, weight_decay=0.1)[-1])
