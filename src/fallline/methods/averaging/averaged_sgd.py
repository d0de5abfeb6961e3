r"""Averaged SGD: plain steps, judged at the average of all iterates.

.. math:: p_t = p_{t-1} - \mathrm{lr}\, g_t, \qquad x_t = x_{t-1} + \frac{\gamma + 1}{t + \gamma} (p_t - x_{t-1})

``gamma`` = 0 is the plain average; a larger one forgets early iterates. ``fallline.averaged(optimizer)`` evaluates at x.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import linear, log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.methods.sgd.sgd import sgd
from fallline.transforms import average


@method(
    label="AveragedSGD",
    title="Acceleration of stochastic approximation by averaging",
    doi="10.1137/0330046",
    reference="Polyak & Juditsky, SIAM J. Control Optim. 30, 1992",
    year=1992,
    section="section 2",
    notes="The weights with gamma are those of Shamir & Zhang (arXiv:1212.1824, section 4). The starting point does not count.",
    space={"lr": log(1e-3, 3.0), "gamma": linear(0.0, 16.0), "weight_decay": log(1e-6, 1e-2)},
)
def averaged_sgd(lr: Hyper = 1e-1, gamma: Hyper = 0.0, weight_decay: Hyper = 0.0):
    return chain(sgd(lr, weight_decay=weight_decay), average(gamma=gamma))


@averaged_sgd.claim(
    "x is the mean of all iterates, or weighs the t-th like t (t + 1) ... (t + gamma - 1)", where="eq. 4"
)
def mean_of_iterates(lab):
    grads = [lab.gradient(seed=t) for t in range(12)]
    path = lab.follow(averaged_sgd, grads, lr=0.1)[1:]
    yield lab.close(lab.average(averaged_sgd, grads, lr=0.1), sum(path) / len(path), rtol=1e-12)
    weights = [t * (t + 1) for t in range(1, 13)]
    mean = sum(w * p for w, p in zip(weights, path, strict=True)) / sum(weights)
    yield lab.close(lab.average(averaged_sgd, grads, lr=0.1, gamma=2.0), mean, rtol=1e-12)
