r"""Gravity: large gradients are damped as by a steep slope, before an average whose window grows at the start.

.. math::
    \zeta_t = \frac{g_t}{1 + (g_t \max |g_t|)^2}, \qquad
    v_t = \hat\beta_t v_{t-1} + (1 - \hat\beta_t)\, \zeta_t, \quad \hat\beta_t = \frac{\beta t + 1}{t + 2}, \qquad
    p \leftarrow p - \mathrm{lr}\, v_t
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper, Reach
from fallline.transforms import descend


@transform
class ScaleByGravity(Transform):
    b1: Hyper = 0.9
    reach = Reach.TENSOR
    slots = zeros("v")

    def update(self, u, at, *, v):
        largest = u.abs().amax() if u.numel() else 0.0
        zeta = u / (1 + (u * largest) ** 2)
        b1 = (self.b1 * at.t + 1) / (at.t + 2)
        v = b1 * v + (1 - b1) * zeta
        return v, {"v": v}


@method(
    label="Gravity",
    title="Gravity Optimizer: a Kinematic Approach on Optimization in Deep Learning",
    arxiv="2101.09192",
    year=2021,
    section="algorithm 1",
    notes="The paper starts v from normal noise of standard deviation alpha / lr (alpha = 0.01), which moves parameters even "
    "where gradients are zero; here v starts from zero, which is alpha = 0.",
    space={"lr": log(1e-2, 1e1), "b1": one_minus_log(0.5, 0.99)},
    xfail={
        "converges": "gradients of size 20 count as 1e-4: it crawls there, at rates that are too large further down",
        "extreme_gradients_neither_freeze_nor_diverge": "what follows the extreme gradients is the same crawl",
    },
)
def gravity(lr: Hyper = 0.1, b1: Hyper = 0.9):
    return chain(ScaleByGravity(b1), descend(lr))


@gravity.claim(
    "an entry x of a gradient whose largest is M counts as x / (1 + (x M)^2), so outliers shrink", where="algorithm 1"
)
def damped(lab):
    g = lab.gradient(scale=3.0)
    yield lab.close(lab.one_step(gravity, scale=3.0, lr=0.1, b1=0.5), -0.1 * 0.5 * g / (1 + (g * g.abs().max()) ** 2))
