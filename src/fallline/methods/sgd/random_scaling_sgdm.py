r"""Random-scaling SGDM: SGD with momentum whose every step is as long as an exponential random number says.

.. math:: m_t = \beta m_{t-1} + g_t, \qquad p \leftarrow p - \mathrm{lr}\, s_t m_t, \qquad s_t \sim \mathrm{Exp}(1)

One number a step for all tensors, a pure function of ``step_seed`` and the step.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.transforms import add_l2, descend, random_scaling
from fallline.transforms import momentum as with_momentum
from fallline.transforms.random_scaling import uniform


@method(
    label="RandomScalingSGDM",
    title="Random Scaling and Momentum for Non-smooth Non-convex Optimization",
    arxiv="2405.09742",
    year=2024,
    section="section 4, with unconstrained online gradient descent",
    notes="It is the paper's conversion of online gradient descent with forgetting, D_{t+1} = beta (D_t - eta g_t), written as torch's momentum: "
    "lr = beta eta. Numbers come from 2^16 equal cells of the distribution.",
    space={"lr": log(3e-3, 1.0), "momentum": one_minus_log(0.5, 0.99), "weight_decay": log(1e-6, 1e-2)},
)
def random_scaling_sgdm(lr: Hyper = 0.01, momentum: Hyper = 0.9, weight_decay: Hyper = 0.0, step_seed: int = 0):
    return chain(add_l2(weight_decay), with_momentum(momentum), descend(lr), random_scaling(step_seed))


@random_scaling_sgdm.claim("E F(x + s d) - F(x) = E <grad F(x + s d), d>, even for |x|", where="lemma 3.1")
def exact_linear_model(lab):
    x, d = lab.start().flatten(), -2 * lab.gradient().flatten()
    s = [-float(uniform(0, t, x).log()) for t in range(1, 2001)]
    change = sum(float((x + k * d).abs().sum() - x.abs().sum()) for k in s) / len(s)
    linear = sum(float(((x + k * d).sign() * d).sum()) for k in s) / len(s)
    yield lab.less(abs(change - linear), 0.1 * abs(change))
    yield lab.less(abs(sum(s) / len(s) - 1), 0.05)


@random_scaling_sgdm.claim("every step is that of SGD with momentum in another length", where="section 4")
def along_sgdm(lab):
    grads = [lab.gradient(seed=t) for t in range(6)]
    m = sum((0.9 ** (5 - t) * g for t, g in enumerate(grads)), lab.start() * 0)
    path = lab.follow(random_scaling_sgdm, grads, lr=0.1)
    step = path[-2] - path[-1]
    yield lab.close(step / step.norm(), m / m.norm())
