r"""AdaMomentum: Adam that takes its second moment from the running mean instead of the gradient.

.. math::
    m_t = b_1 m_{t-1} + (1 - b_1) g_t, \quad v_t = b_2 v_{t-1} + (1 - b_2) m_t^2 + \epsilon, \quad
    u_t = \frac{m_t / (1 - b_1^t)}{\sqrt{v_t / (1 - b_2^t)}}
"""

from __future__ import annotations

from fallline.core.hyper import Domain
from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper
from fallline.transforms import decay, descend


@transform
class ScaleByAdamomentum(Transform):
    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    slots = zeros("m", "v")
    nonnegative = frozenset({"v"})
    domains = {"eps": Domain("(0, inf)")}

    def update(self, u, at, *, m, v):
        m = m.lerp(u, 1 - self.b1)
        v = v.lerp(m * m, 1 - self.b2) + self.eps
        return m / (1 - self.b1**at.t) / (v / (1 - self.b2**at.t)).sqrt(), {"m": m, "v": v}


@method(
    label="AdaMomentum",
    title="Rethinking Adam: A Twofold Exponential Moving Average Approach",
    arxiv="2106.11514",
    year=2021,
    section="algorithm 1",
    notes="eps stands inside the second moment and nowhere else, so it gathers to eps / (1 - b2). Weight decay is decoupled.",
    space={"lr": log(3e-4, 3e-1), "b1": one_minus_log(0.5, 0.99), "eps": log(1e-16, 1e-6)},
)
def adamomentum(lr: Hyper = 1e-3, b1: Hyper = 0.9, b2: Hyper = 0.999, eps: Hyper = 1e-8, weight_decay: Hyper = 0.0):
    return chain(ScaleByAdamomentum(b1, b2, eps), decay(weight_decay), descend(lr))


@adamomentum.claim(
    "where the gradient changes its sign at every step the step stays of size lr; Adam's shrinks", where="section 3"
)
def alternating_gradients(lab):
    grads = [(-1) ** t * lab.gradient() for t in range(400)]
    ours, adam = (lab.follow(m, grads, lr=0.1) for m in (adamomentum, lab.method("adam")))
    yield lab.less(0.09, float((ours[-1] - ours[-2]).abs().min()))
    yield lab.less(float((adam[-1] - adam[-2]).abs().max()), 0.02)
