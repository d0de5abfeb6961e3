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


@alr_smag.claim("on an ill-conditioned problem it does not oscillate as the heavy ball does", where="abstract")
def no_oscillation(lab):
    def rises(method, lr):
        path = []

        def loss(x):
            path.append((lab.curvature() ** 3 * x * x).sum() / 2)  # curvatures from 0.001 to 1
            return path[-1]

        lab.minimise(method, loss, steps=200, lr=lr, momentum=0.9)
        return sum(float(b) > float(a) for a, b in zip(path, path[1:], strict=False))

    yield lab.equal(rises(alr_smag, 1e9), 0)
    yield lab.less(10, rises(lab.method("sgd"), 1.0))
