r"""Optimistic gradient descent: the last gradient is the guess at the next one, and what it got wrong is made good.

.. math:: p_{t+1} = p_t - \mathrm{lr}\, \big(g_t + \gamma\, (g_t - g_{t-1})\big)

with :math:`\gamma` = ``optimism`` and :math:`g_0 = 0`; 1 is optimistic mirror descent in Euclidean geometry. It converges in games at one
gradient a step.
"""

from __future__ import annotations

from fallline.core.hyper import NONNEGATIVE
from fallline.core.method import method
from fallline.core.space import linear, log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper
from fallline.transforms import descend


@transform
class Optimistic(Transform):
    optimism: Hyper = 1.0
    domains = {"optimism": NONNEGATIVE}
    slots = zeros("last")

    def update(self, u, at, *, last):
        return u + self.optimism * (u - last), {"last": u}


@method(
    label="OptimisticGradient",
    title="Training GANs with Optimism",
    arxiv="1711.00141",
    year=2017,
    section="equation 7",
    notes="The last gradient of the first step is zero: without a guess, optimistic mirror descent (Rakhlin & Sridharan, "
    "arXiv:1311.1869) makes up for all of the first gradient. The parameter is where gradients are taken.",
    space={"lr": log(1e-3, 1.0), "optimism": linear(0.0, 2.0)},
)
def optimistic_gradient(lr: Hyper = 0.1, optimism: Hyper = 1.0):
    return chain(Optimistic(optimism), descend(lr))


@optimistic_gradient.claim(
    "on the game <x, y> the last iterate converges, where gradient descent diverges", where="proposition 1"
)
def last_iterate(lab):
    def game(p):  # a loss whose gradient is the vector field (y, -x)
        return (p[:3] * p[3:].detach()).sum() - (p[:3].detach() * p[3:]).sum()

    start = float(lab.start().norm())
    yield lab.less(float(lab.minimise(optimistic_gradient, game, steps=100, lr=0.3).norm()), 0.1 * start)
    yield lab.less(10 * start, float(lab.minimise(lab.method("sgd"), game, steps=100, lr=0.3).norm()))


@optimistic_gradient.claim("without optimism it is gradient descent", where="equation 7")
def without_optimism(lab):
    grads = [lab.gradient(seed=t) for t in range(5)]
    ours = lab.follow(optimistic_gradient, grads, lr=0.1, optimism=0.0)
    yield lab.equal(ours[-1], lab.follow(lab.method("sgd"), grads, lr=0.1)[-1])
