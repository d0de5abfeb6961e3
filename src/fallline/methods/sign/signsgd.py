r"""signSGD: step by the same amount in every coordinate, along the sign of the gradient.

.. math:: u_t = \mathrm{sign}(g_t), \qquad p \leftarrow p - \mathrm{lr}\, u_t
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.transforms import decay, descend, sign


@method(
    label="SignSGD",
    title="signSGD: Compressed Optimisation for Non-Convex Problems",
    arxiv="1802.04434",
    year=2018,
    section="algorithm 1",
    notes="A zero gradient gives a zero step. The paper has no decay; here it is decoupled.",
    space={"lr": log(3e-5, 3e-2), "weight_decay": log(1e-3, 3.0)},
)
def signsgd(lr: Hyper = 1e-4, weight_decay: Hyper = 0.0):
    return chain(sign(), decay(weight_decay), descend(lr))


@signsgd.claim("the step does not depend on the size of the gradient, and needs no memory", where="algorithm 1")
def size_does_not_matter(lab):
    for scale in (1e-6, 1e6):
        yield lab.equal(lab.one_step(signsgd, scale=scale, lr=0.01), -0.01 * lab.gradient().sign())
    yield lab.equal(signsgd.state_bytes(), 0.0)
