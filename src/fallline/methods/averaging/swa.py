r"""SWA: from some step on, the equal average of an iterate every so often.

.. math:: x_n = x_{n-1} + \frac{1}{n} (p_{s + (n - 1) c} - x_{n-1}), \qquad n = 1, 2, \dots

for SGD with momentum and a rate that stays high or cycles, ``start`` being s and ``every`` c. ``fallline.averaged(optimizer)``
evaluates at x; with batch normalisation, ``fallline.averaged(optimizer, model, batches)``.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.methods.sgd.sgd import sgd
from fallline.transforms import average


@method(
    label="SWA",
    title="Averaging Weights Leads to Wider Optima and Better Generalization",
    arxiv="1803.05407",
    year=2018,
    section="algorithm 1",
    notes="The paper counts in epochs of a constant or cyclic rate and starts at 75 % of the budget; here start and every "
    "are steps. Before start, x follows the iterate. chain(adamw(...), average(start, every)) averages any other method.",
    space={"lr": log(1e-3, 3.0), "momentum": one_minus_log(0.5, 0.99), "weight_decay": log(1e-6, 1e-2)},
)
def swa(lr: Hyper = 5e-2, momentum: Hyper = 0.9, weight_decay: Hyper = 0.0, start: int = 1, every: int = 1):
    return chain(sgd(lr, momentum, weight_decay=weight_decay), average(start, every))


@swa.claim("x is the equal average of the iterates at steps start, start + every ...", where="algorithm 1")
def equal_average(lab):
    grads = [lab.gradient(seed=t) for t in range(20)]
    path = lab.follow(swa, grads, lr=0.1)
    mean = sum(path[t] for t in (7, 11, 15, 19)) / 4
    yield lab.close(lab.average(swa, grads, lr=0.1, start=7, every=4), mean, rtol=1e-12)
    yield lab.close(lab.average(swa, grads[:5], lr=0.1, start=7, every=4), path[5], rtol=1e-12)
