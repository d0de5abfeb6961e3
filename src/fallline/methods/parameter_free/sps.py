r"""SPS: a stochastic step as far as the batch's loss, if it were linear, needs to reach its lowest value.

.. math:: \gamma_t = \min\Big(\frac{f_t(p) - f^*}{c\, \|g_t\|^2}, \gamma_b\Big), \qquad p \leftarrow p - \gamma_t g_t

``lr`` is the bound :math:`\gamma_b`, ``f_star`` what every batch's loss can reach: 0 for models that fit their data.
"""

from __future__ import annotations

from fallline.core.hyper import Domain
from fallline.core.method import method
from fallline.core.space import linear, log
from fallline.core.transform import Transform, chain, transform
from fallline.core.types import Hyper, Reach
from fallline.transforms.polyak import polyak_rate


@transform
class Sps(Transform):
    lr: Hyper = 1.0
    c: Hyper = 0.5
    f_star: Hyper = 0.0
    domains = {"c": Domain("(0, inf)")}
    reach = Reach.GROUP
    needs = frozenset({"loss"})

    def measure(self, u, at):
        return u.square().sum()

    def update(self, u, at):
        return polyak_rate(at.loss - self.f_star, self.c * at.total, self.lr) * u, {}


@method(
    label="SPS",
    title="Stochastic Polyak Step-size for SGD: An Adaptive Learning Rate for Fast Convergence",
    arxiv="2002.10542",
    year=2020,
    section="equation 3, SPS_max",
    notes="c = 1/2 is the paper's choice for strongly convex and, in practice, all problems; 1 is its choice for convex ones. "
    "Its smoothing of the bound from batch to batch is left out.",
    space={"lr": log(1e-2, 10.0), "c": linear(0.2, 1.0)},
)
def sps(lr: Hyper = 1.0, c: Hyper = 0.5, f_star: Hyper = 0.0):
    return chain(Sps(lr, c, f_star))


@sps.claim("on |p - p*|^2 / 2 with c = 1/2 the first step lands on the solution, whatever the scale", where="section 3")
def lands(lab):
    for scale in (1e-3, 1e3):
        end = lab.minimise(sps, lambda x, a=scale: a * (x - 3).square().sum() / 2, steps=1, lr=1e9)
        yield lab.close(end, lab.start() * 0 + 3, rtol=1e-9)


@sps.claim("gradient descent with Polyak's step never moves away from the solution", where="theorem 3.1")
def never_away(lab):
    h = lab.curvature()
    gap = [lab.minimise(sps, lambda x: (h * x * x).sum(), steps=t, lr=1e9, c=1.0).norm() for t in range(12)]
    yield lab.less(float(max(b / a for a, b in zip(gap, gap[1:], strict=False))), 1.0)
