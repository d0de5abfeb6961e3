r"""AdaBelief: Adam that divides by how far the gradient is from its running mean: trust what was predicted.

.. math::
    m_t = b_1 m_{t-1} + (1 - b_1) g_t, \quad s_t = b_2 s_{t-1} + (1 - b_2)(g_t - m_t)^2 + \epsilon, \quad
    u_t = \frac{m_t / (1 - b_1^t)}{\sqrt{s_t / (1 - b_2^t)} + \epsilon}
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper
from fallline.transforms import decay, descend


@transform
class ScaleByAdabelief(Transform):
    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-16
    slots = zeros("m", "s")
    nonnegative = frozenset({"s"})

    def update(self, u, at, *, m, s):
        m = m.lerp(u, 1 - self.b1)
        s = s.lerp((u - m) ** 2, 1 - self.b2) + self.eps
        m_hat = m / (1 - self.b1**at.t)
        s_hat = s / (1 - self.b2**at.t)
        return m_hat / (s_hat.sqrt() + self.eps), {"m": m, "s": s}


@method(
    label="AdaBelief",
    title="AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients",
    arxiv="2010.07468",
    year=2020,
    section="algorithm 2",
    notes="The paper's algorithm has no rectification; the authors' package rectifies by default. eps stands twice, as in the "
    "paper; the default is the authors' 1e-16 (the paper's text uses 1e-8 for images, 1e-16 for transformers).",
    space={"lr": log(3e-4, 3e-1), "b1": one_minus_log(0.5, 0.99), "eps": log(1e-16, 1e-6)},
)
def adabelief(lr: Hyper = 1e-3, b1: Hyper = 0.9, b2: Hyper = 0.999, eps: Hyper = 1e-16, weight_decay: Hyper = 0.0):
    return chain(ScaleByAdabelief(b1, b2, eps), decay(weight_decay), descend(lr))


@adabelief.claim(
    "where the gradient is steady it takes larger steps than Adam", where="section 2.1, figure 1, region 3"
)
def larger_on_steady_gradients(lab):
    grads = [lab.gradient()] * 50
    ours, adam = (lab.follow(m, grads, lr=0.1) for m in (adabelief, lab.method("adam")))
    yield lab.less(3.0, float(((ours[-1] - ours[-2]) / (adam[-1] - adam[-2])).min()))
