r"""Signum: step along the sign of the momentum.

.. math:: m_t = \beta m_{t-1} + g_t, \qquad u_t = \mathrm{sign}(m_t)
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.transforms import decay, descend, sign
from fallline.transforms import momentum as with_momentum


@method(
    label="Signum",
    title="signSGD: Compressed Optimisation for Non-Convex Problems",
    arxiv="1802.04434",
    year=2018,
    section="algorithm 2",
    notes="The paper weighs the gradient by 1 - momentum; the sign does not see that, so torch's momentum serves.",
    space={"lr": log(3e-5, 3e-2), "momentum": one_minus_log(0.5, 0.99), "weight_decay": log(1e-3, 3.0)},
    xfail={"movement_dies_out": "a sign walk: the momentum shrinks, but its sign stays"},
)
def signum(lr: Hyper = 1e-4, momentum: Hyper = 0.9, weight_decay: Hyper = 0.0):
    return chain(with_momentum(momentum), sign(), decay(weight_decay), descend(lr))


@signum.claim("it is Lion with one and the same momentum", where="Chen et al., arXiv:2302.06675, section 3.1")
def lion_with_equal_betas(lab):
    grads = [lab.gradient(seed=t) for t in range(20)]
    ours = lab.follow(signum, grads, lr=0.01, momentum=0.9, weight_decay=0.1)
    theirs = lab.follow(lab.method("lion"), grads, lr=0.01, b1=0.9, b2=0.9, weight_decay=0.1)
    yield lab.equal(ours[-1], theirs[-1])
