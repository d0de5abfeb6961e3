r"""SGDW: momentum SGD with the weight decay taken out of the gradient and applied to the weights.

.. math:: m_t = \beta m_{t-1} + g_t, \qquad p \leftarrow p - \mathrm{lr}\,(m_t + \lambda p)
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.transforms import decay, descend
from fallline.transforms import momentum as with_momentum


@method(
    label="SGDW",
    title="Decoupled Weight Decay Regularization",
    arxiv="1711.05101",
    year=2017,
    section="algorithm 1",
    notes="As in adamw the decay is multiplied by lr (in the paper by the schedule alone), and lr multiplies the buffer, as in sgd "
    "(in the paper the gradient that enters it).",
    space={"lr": log(1e-3, 3.0), "momentum": one_minus_log(0.5, 0.99), "weight_decay": log(1e-5, 1e-1)},
)
def sgdw(lr: Hyper = 1e-3, momentum: Hyper = 0.9, weight_decay: Hyper = 1e-2):
    return chain(with_momentum(momentum), decay(weight_decay), descend(lr))


@sgdw.claim("without momentum, decay and an L2 penalty are the same", where="proposition 1")
def equal_to_l2_without_momentum(lab):
    grads = [lab.gradient(seed=t) for t in range(5)]
    ours = lab.follow(sgdw, grads, lr=0.1, momentum=0.0, weight_decay=0.3)
    yield lab.equal(ours[-1], lab.follow(lab.method("sgd"), grads, lr=0.1, weight_decay=0.3)[-1])


@sgdw.claim("with momentum the decay still acts on the weights alone: the factor is 1 - lr lambda", where="algorithm 1")
def decoupled(lab):
    path = lab.follow(sgdw, [0 * lab.gradient()] * 3, lr=0.1, momentum=0.9, weight_decay=0.5)
    yield lab.close(path[-1], (1 - 0.1 * 0.5) ** 3 * lab.start())
