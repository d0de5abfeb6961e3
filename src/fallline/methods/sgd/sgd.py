r"""SGD: follow the gradient, with momentum if asked.

.. math:: m_t = \beta m_{t-1} + (1 - d)\, g_t, \quad m_1 = g_1, \qquad p \leftarrow p - \mathrm{lr}\, m_t

With Nesterov's momentum the step is :math:`g_t + \beta m_t`. Without momentum there is no state.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.transforms import add_l2, descend
from fallline.transforms import momentum as with_momentum


@method(
    label="SGD",
    title="On the importance of initialization and momentum in deep learning",
    reference="Sutskever, Martens, Dahl & Hinton, ICML 2013",
    year=2013,
    section="section 2",
    notes="In torch's form lr multiplies the buffer; in the paper it multiplies the gradient that enters it. They differ "
    "when lr changes. The first gradient enters undampened, as in torch.",
    space={"lr": log(1e-3, 3.0), "momentum": one_minus_log(0.5, 0.99), "weight_decay": log(1e-6, 1e-2)},
    torch_state={"momentum_buffer": "momentum.m"},
)
def sgd(
    lr: Hyper = 1e-3,
    momentum: Hyper = 0.0,
    dampening: Hyper = 0.0,
    weight_decay: Hyper = 0.0,
    nesterov: bool = False,
):
    ball = [with_momentum(momentum, dampening, nesterov)] if momentum != 0 else []
    return chain(add_l2(weight_decay), *ball, descend(lr))


@sgd.claim("without momentum a step is -lr g, and needs no memory", where="equation 1")
def plain_step(lab):
    yield lab.close(lab.one_step(sgd, lr=0.1), -0.1 * lab.gradient())
    yield lab.equal(sgd.state_bytes(), 0.0)


@sgd.claim("under a constant gradient momentum speeds up to 1 / (1 - momentum) times the plain step", where="section 2")
def terminal_velocity(lab):
    path = lab.follow(sgd, [lab.gradient()] * 300, lr=0.1, momentum=0.9)
    yield lab.close(path[-1] - path[-2], -0.1 / (1 - 0.9) * lab.gradient(), rtol=1e-9)
