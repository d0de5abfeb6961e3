r"""Nesterov: SGD that looks ahead along its momentum before it takes the gradient.

.. math:: m_t = \beta m_{t-1} + g_t, \qquad p \leftarrow p - \mathrm{lr}\,(g_t + \beta m_t)
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.transforms import add_l2, descend
from fallline.transforms import momentum as with_momentum


@method(
    label="Nesterov",
    title="On the importance of initialization and momentum in deep learning",
    reference="Sutskever, Martens, Dahl & Hinton, ICML 2013",
    year=2013,
    section="section 2.1",
    notes="Written at the look-ahead point, as torch does: the stored parameters are the paper's shifted by momentum.",
    space={"lr": log(1e-3, 3.0), "momentum": one_minus_log(0.5, 0.99), "weight_decay": log(1e-6, 1e-2)},
)
def nesterov(lr: Hyper = 1e-3, momentum: Hyper = 0.9, weight_decay: Hyper = 0.0):
    return chain(add_l2(weight_decay), with_momentum(momentum, nesterov=True), descend(lr))


@nesterov.claim(
    "the iterates are the look-ahead points of p + v, v = momentum v - lr grad(p + momentum v)", where="eq. 3, 4"
)
def look_ahead(lab):
    p, v, lr, b = lab.start(), 0.0, 0.05, 0.9
    ours = lab.minimise(nesterov, lambda x: 0.5 * (lab.curvature() * x * x).sum(), steps=20, lr=lr, momentum=b)
    # both forms start at the same point; ours is shifted by b v from then on
    for _ in range(20):
        v = b * v - lr * lab.curvature() * (p + b * v)
        p = p + v
    yield lab.close(ours, p + b * v, rtol=1e-9)
