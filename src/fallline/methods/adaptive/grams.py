r"""Grams: as long a step as Adam's in every coordinate, but along the sign of the present gradient.

.. math:: u_t = \mathrm{sign}(g_t) \cdot \Bigl| \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon} \Bigr| + \lambda p
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform
from fallline.core.types import Hyper
from fallline.methods.adaptive.adam import scale_by_adam
from fallline.transforms import decay, descend


@transform
class AlongTheGradient(Transform):
    """u <- sign(g) |u|"""

    def update(self, u, at):
        return at.g.sign() * u.abs(), {}


@method(
    label="Grams",
    title="Grams: Gradient Descent with Adaptive Momentum Scaling",
    arxiv="2412.17107",
    year=2024,
    section="algorithm 1",
    notes="The paper's momentum may be that of any method; this is its form for Adam. AlongTheGradient is a link for other chains.",
    space={"lr": log(3e-4, 3e-1), "b1": one_minus_log(0.5, 0.99), "weight_decay": log(1e-4, 1.0)},
)
def grams(lr: Hyper = 1e-3, b1: Hyper = 0.9, b2: Hyper = 0.999, eps: Hyper = 1e-8, weight_decay: Hyper = 0.0):
    return chain(scale_by_adam(b1, b2, eps), AlongTheGradient(), decay(weight_decay), descend(lr))


@grams.claim(
    "every step descends, by at least as much to first order as Adam's from the same state, masked or not",
    where="section 4",
)
def always_descends(lab):
    grads = [lab.gradient(seed=t) for t in range(30)]
    ours, adam = (lab.follow(m, grads, lr=0.1) for m in (grams, lab.method("adam")))
    for t, g in enumerate(grads):
        u, a = (-(path[t + 1] - path[t]) for path in (ours, adam))
        yield lab.less(0.0, float((u * g).sum()))
        yield lab.less(float((a * g).clamp(min=0).sum()), float((u * g).sum()) * (1 + 1e-12))
