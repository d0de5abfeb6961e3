r"""Noisy SGD: normal noise, less of it from step to step, is added to every gradient.

.. math::
    m_t = \beta m_{t-1} + g_t + n_t, \quad n_t \sim N(0, \sigma_t^2 I), \quad \sigma_t^2 = \frac{\eta}{t^\gamma}, \qquad
    p \leftarrow p - \mathrm{lr}\, m_t

with :math:`\beta` = ``momentum``. The numbers depend on the optimizer's ``seed``, the parameter's name and the step alone.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.transforms import add_l2, add_noise, descend
from fallline.transforms import momentum as with_momentum


@method(
    label="NoisySGD",
    title="Adding Gradient Noise Improves Learning for Very Deep Networks",
    arxiv="1511.06807",
    year=2015,
    section="section 3",
    notes="The paper takes eta from 0.01, 0.3 and 1 and gamma = 0.55; whether its t starts at 0 or 1 is open. "
    "chain(add_noise(eta, gamma), adamw(...)) adds the noise to any other method's gradients.",
    space={"lr": log(1e-3, 3.0), "eta": log(1e-4, 1.0), "momentum": one_minus_log(0.5, 0.99)},
    xfail={
        "zero_gradients_move_nothing": "noise moves parameters without gradients",
        "movement_dies_out": "noise falls like a power of the step, slower than the contract asks",
    },
)
def noisy_sgd(
    lr: Hyper = 0.1, momentum: Hyper = 0.9, eta: Hyper = 0.01, gamma: Hyper = 0.55, weight_decay: Hyper = 0.0
):
    return chain(add_l2(weight_decay), add_noise(eta, gamma), with_momentum(momentum), descend(lr))


@noisy_sgd.claim("without noise it is SGD with momentum", where="section 3")
def without_noise(lab):
    grads = [lab.gradient(seed=t) for t in range(6)]
    ours = lab.follow(noisy_sgd, grads, lr=0.1, eta=0.0)[-1]
    yield lab.close(ours, lab.follow(lab.method("sgd"), grads, lr=0.1, momentum=0.9)[-1], rtol=1e-12)


@noisy_sgd.claim("it leaves a poor start from which SGD cannot get away", where="abstract")
def poor_start(lab):
    def end(method):  # from a saddle at 0, with minima at -1 and 1
        loss = lambda x: ((x - lab.start()) ** 4 / 4 - (x - lab.start()) ** 2 / 2).sum()  # noqa: E731
        return (lab.minimise(method, loss, 200, lr=0.05, momentum=0.9) - lab.start()).abs()

    yield lab.less(float(end(lab.method("sgd")).max()), 1e-12)
    yield lab.less(0.8, float(end(noisy_sgd).min()))
