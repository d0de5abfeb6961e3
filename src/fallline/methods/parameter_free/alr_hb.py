r"""ALR-HB: Polyak's step for the heavy ball: as far along the gradient as is best for the distance to the solution, the ball's push included.

.. math::
    d_t = p_t - p_{t-1}, \qquad
    \eta_t = \min\Big(\frac{f_t(p_t) - f^*}{c\, \|g_t\|^2} + \beta \frac{\langle g_t, d_t \rangle}{\|g_t\|^2}, \eta_{\max}\Big), \qquad
    p_{t+1} = p_t - \eta_t g_t + \beta d_t

``lr`` is the bound :math:`\eta_{\max}`, ``momentum`` :math:`\beta`; a negative step counts as zero.
"""

from __future__ import annotations

import torch

from fallline.core.hyper import Domain
from fallline.core.method import method
from fallline.core.space import linear, log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper, Reach
from fallline.transforms.polyak import polyak_rate


@transform
class AlrHb(Transform):
    lr: Hyper = 0.1
    momentum: Hyper = 0.9
    c: Hyper = 1.0
    f_star: Hyper = 0.0
    domains = {"c": Domain("(0, inf)")}
    reach = Reach.GROUP
    needs = frozenset({"loss"})
    slots = zeros("last")  # what was subtracted last, -d

    def measure(self, u, at, *, last):
        return torch.stack([u.square().sum(), (u * last).sum()])

    def update(self, u, at, *, last):
        square, along = at.totals
        u = (
            polyak_rate((at.loss - self.f_star) / self.c - self.momentum * along, square, self.lr) * u
            + self.momentum * last
        )
        return u, {"last": u}


@method(
    label="ALRHB",
    title="Generalized Polyak Step Size for First Order Optimization with Momentum",
    arxiv="2305.12939",
    year=2023,
    section="ALR-HB and its stochastic form",
    notes="The step minimises the paper's bound on the next distance, derived again and not compared with its text; c and the "
    "bound belong to the stochastic form. The push of the ball goes on where lr falls to zero.",
    space={"lr": log(1e-2, 10.0), "momentum": one_minus_log(0.5, 0.99), "c": linear(0.2, 1.0)},
)
def alr_hb(lr: Hyper = 0.1, momentum: Hyper = 0.9, c: Hyper = 1.0, f_star: Hyper = 0.0):
    return chain(AlrHb(lr, momentum, c, f_star))


@alr_hb.claim("without momentum it is Polyak's step", where="abstract")
def polyak_without_momentum(lab):
    def end(method, **hypers):
        return lab.minimise(method, lambda x: (lab.curvature() * x * x).sum(), 12, lr=1e9, c=1.0, **hypers)

    yield lab.close(end(alr_hb, momentum=0.0), end(lab.method("sps")), rtol=1e-12)


@alr_hb.claim(
    "whatever the momentum, it needs no learning rate: an ill-conditioned problem is solved with the bound out of reach",
    where="abstract",
)
def no_rate(lab):
    def loss(x):
        return (lab.curvature() ** 2 * x * x).sum() / 2  # curvatures from 0.01 to 1

    start = float(loss(lab.start()))
    for momentum in (0.0, 0.5, 0.9):
        end = lab.minimise(alr_hb, loss, steps=300, lr=1e9, momentum=momentum)
        yield lab.less(float(loss(end)), 1e-3 * start)
