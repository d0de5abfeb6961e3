r"""Lookahead: k steps forward by fast weights, one step back towards where they set out.

.. math::
    \theta \leftarrow \theta - u_t, \qquad \text{each } k \text{ steps: } \phi \leftarrow \phi + \alpha (\theta - \phi), \quad
    \theta \leftarrow \phi

around SGD with momentum; ``chain(adamw(...), slow_weights(k, alpha))`` puts it around any other method.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import linear, log, one_minus_log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.methods.sgd.sgd import sgd
from fallline.transforms import slow_weights


@method(
    label="Lookahead",
    title="Lookahead Optimizer: k steps forward, 1 step back",
    arxiv="1907.08610",
    year=2019,
    section="algorithm 1",
    notes="The inner momentum goes on over the step back (the paper also tries to reset or interpolate it). "
    "fallline.averaged(optimizer) evaluates at the slow weights.",
    space={"lr": log(1e-3, 3.0), "momentum": one_minus_log(0.5, 0.99), "alpha": linear(0.2, 1.0)},
)
def lookahead(lr: Hyper = 0.1, momentum: Hyper = 0.9, alpha: Hyper = 0.5, weight_decay: Hyper = 0.0, k: int = 5):
    return chain(sgd(lr, momentum, weight_decay=weight_decay), slow_weights(k, alpha))


@lookahead.claim("on a noisy quadratic the slow weights vary less than SGD, by a known factor", where="proposition 2")
def smaller_variance(lab):
    lr, k, a, r = 0.5, 5, 0.5, 0.5  # curvature 1, so r = 1 - lr; unit noise enters every gradient

    def reply(at):  # of the end of 8 rounds to one unit of noise; the method is linear, so variances add up
        steps = iter(range(8 * k))
        return lab.minimise(
            lookahead, lambda x: ((x**2) / 2 + x * (next(steps) == at)).sum(), 8 * k, lr=lr, momentum=0.0, alpha=a
        )

    variance = float(sum((reply(t) - reply(-1))[0, 0] ** 2 for t in range(8 * k)))
    top = a**2 * (1 - r ** (2 * k))
    yield lab.ratio(variance, lr**2 / (1 - r**2), equals=top / (top + 2 * a * (1 - a) * (1 - r**k)), rtol=1e-3)


@lookahead.claim("with alpha = 1 it is the inner method", where="section 2")
def alpha_one(lab):
    grads = [lab.gradient(seed=t) for t in range(12)]
    ours = lab.follow(lookahead, grads, lr=0.1, alpha=1.0)[-1]
    yield lab.close(ours, lab.follow(lab.method("sgd"), grads, lr=0.1, momentum=0.9)[-1], rtol=1e-12)


@lookahead.claim("between two steps back the fast weights are the inner method's", where="algorithm 1")
def forward_and_back(lab):
    grads = [lab.gradient(seed=t) for t in range(5)]
    ours = lab.follow(lookahead, grads, lr=0.1, alpha=0.5)
    sgd_path = lab.follow(lab.method("sgd"), grads, lr=0.1, momentum=0.9)
    yield lab.equal(ours[4], sgd_path[4])
    yield lab.close(ours[5], 0.5 * (ours[0] + sgd_path[5]), rtol=1e-12)
