r"""MARS-AdamW: AdamW on gradients that are corrected by their change since the last iterate, as in STORM, but scaled down.

.. math::
    c_t &= g_t + \gamma \frac{b_1}{1 - b_1} (g_t - h_t), \qquad \tilde c_t = \frac{c_t}{\max(1, \|c_t\|)} \\
    u_t &= \frac{\hat m_t(\tilde c)}{\sqrt{\hat v_t(\tilde c)} + \epsilon} + \lambda p, \qquad p \leftarrow p - \mathrm{lr}\, u_t

:math:`h_t` is the last step's gradient or, with ``exact``, this batch's gradient at the last iterate, which costs another gradient:
``optimizer.step(closure)``.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.methods.adaptive.adam import scale_by_adam
from fallline.transforms import decay, descend
from fallline.transforms.correct import correct


@method(
    label="MARSAdamW",
    title="MARS: Unleashing the Power of Variance Reduction for Training Large Models",
    arxiv="2411.10438",
    year=2024,
    section="algorithm 2",
    notes="The norm is that of each tensor, as in the authors' code, which also leaves vectors to AdamW: give them their own rule in "
    "groups. At the first step nothing is corrected, since the paper starts with two equal iterates.",
    space={
        "lr": log(3e-4, 3e-1),
        "gamma": log(1e-3, 1e-1),
        "b1": one_minus_log(0.5, 0.99),
        "weight_decay": log(1e-4, 1.0),
    },
    xfail={"movement_dies_out": "it dies out at 4.5 % a step, b1 / sqrt(b2) being 0.955: by a hundredth in 100 steps"},
)
def mars_adamw(
    lr: Hyper = 3e-3,
    b1: Hyper = 0.95,
    b2: Hyper = 0.99,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    gamma: Hyper = 0.025,
    exact: bool = False,
):
    return chain(
        correct(gamma * b1 / (1 - b1), exact), scale_by_adam(b1, b2, eps, False), decay(weight_decay), descend(lr)
    )


@mars_adamw.claim(
    "it is AdamW on corrected gradients clipped to norm 1, those themselves with gamma = 0", where="algorithm 2"
)
def adamw_on_corrected(lab):
    grads = [lab.gradient(seed=t) for t in range(10)]
    for gamma in (0.0, 0.025):
        amount = gamma * 0.95 / (1 - 0.95)
        c = [g + amount * (g - h) for g, h in zip(grads, grads[:1] + grads[:-1], strict=True)]
        ours = lab.follow(mars_adamw, grads, lr=0.01, gamma=gamma, weight_decay=0.1)
        theirs = [x / x.norm().clamp(min=1.0) for x in c]
        wanted = lab.follow(lab.method("adamw"), theirs, lr=0.01, b1=0.95, b2=0.99, weight_decay=0.1)
        yield lab.close(ours[-1], wanted[-1])
