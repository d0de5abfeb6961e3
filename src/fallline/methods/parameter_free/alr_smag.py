r"""ALR-SMAG: Polyak's step for a moving sum of gradients.

.. math::
    d_t = \beta d_{t-1} + g_t, \qquad \eta_t = \min\Big(\frac{f_t(p) - f^*}{c\, \|d_t\|^2}, \eta_{\max}\Big), \qquad
    p \leftarrow p - \eta_t d_t

``lr`` is the bound :math:`\eta_{\max}`; without noise, c = 1 and no bound it is the paper's ALR-MAG.
"""

from __future__ import annotations

from fallline.core.hyper import Domain
from fallline.core.method import method
from fallline.core.space import linear, log, one_minus_log
from fallline.core.transform import Transform, chain, transform
from fallline.core.types import Hyper, Reach
from fallline.transforms import momentum as with_momentum
from fallline.transforms.polyak import polyak_rate


@transform
class ScaleByPolyak(Transform):
    lr: Hyper = 0.1
    c: Hyper = 1.0
    f_star: Hyper = 0.0
    domains = {"c": Domain("(0, inf)")}
    reach = Reach.GROUP
    needs = frozenset({"loss"})

    def measure(self, u, at):
        return u.square().sum()

    def update(self, u, at):
        return polyak_rate(at.loss - self.f_star, self.c * at.total, self.lr) * u, {}


@method(
    label="ALRSMAG",
    title="Generalized Polyak Step Size for First Order Optimization with Momentum",
    arxiv="2305.12939",
    year=2023,
    section="ALR-MAG, ALR-SMAG",
    notes="Checked against two public implementations, not against the paper's text. No decay.",
    space={"lr": log(1e-2, 10.0), "momentum": one_minus_log(0.5, 0.99), "c": linear(0.2, 1.0)},
)
def alr_smag(lr: Hyper = 0.1, momentum: Hyper = 0.9, c: Hyper = 1.0, f_star: Hyper = 0.0):
    return chain(with_momentum(momentum), ScaleByPolyak(lr, c, f_star))


@alr_smag.claim("it is much less sensitive to momentum than the heavy ball", where="abstract")
def insensitive_to_momentum(lab):
    def worst(method, **values):
        ends = [
            float(
                lab.minimise(method, lambda x: (lab.curvature() * x * x).sum(), steps=60, momentum=b, **values).norm()
            )
            for b in (0.0, 0.5, 0.9)
        ]
        return max(ends) / min(ends)

    yield lab.less(2 * worst(alr_smag, lr=1e9), worst(lab.method("sgd"), lr=0.5))
