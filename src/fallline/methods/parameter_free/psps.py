r"""PSPS: Polyak's stochastic step, measured and taken in the metric of a preconditioner: Adam's or AdaGrad's.

.. math::
    \gamma_t = \min\Big(\frac{f_t(p) - f^*}{c \sum g_t^2 / D_t}, \gamma_b\Big), \qquad p \leftarrow p - \gamma_t D_t^{-1} g_t, \qquad
    D_t = \sqrt{v_t / (1 - b_2^t)} + \epsilon \ \text{ or } \ \sqrt{\textstyle\sum_{i \le t} g_i^2} + \epsilon

with :math:`v_t` as in Adam and the sum in :math:`\gamma_t` over all parameters; ``lr`` is the bound :math:`\gamma_b`.
"""

from __future__ import annotations

from typing import Literal

from fallline.core.hyper import Domain
from fallline.core.method import method
from fallline.core.space import linear, log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper, Reach
from fallline.transforms.polyak import polyak_rate

Preconditioner = Literal["adam", "adagrad"]


@transform
class Psps(Transform):
    lr: Hyper = 1.0
    c: Hyper = 0.5
    f_star: Hyper = 0.0
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    preconditioner: str = "adam"
    domains = {"c": Domain("(0, inf)")}
    reach = Reach.GROUP
    needs = frozenset({"loss"})
    slots = zeros("v")
    nonnegative = frozenset({"v"})

    def measure(self, u, at, *, v):
        return (u * (u / self.root(u, at, v)[0])).sum()

    def update(self, u, at, *, v):
        root, v = self.root(u, at, v)
        return polyak_rate(at.loss - self.f_star, self.c * at.total, self.lr) * (u / root), {"v": v}

    def root(self, u, at, v):
        """The preconditioner with the present gradient in it, and the new v."""
        v = v.lerp(u * u, 1 - self.b2) if self.preconditioner == "adam" else v + u * u
        return (v / (1 - self.b2**at.t) if self.preconditioner == "adam" else v).sqrt() + self.eps, v


@method(
    label="PSPS",
    title="Stochastic Gradient Descent with Preconditioned Polyak Step-size",
    arxiv="2310.02093",
    year=2023,
    section="PSPS with Adam's and AdaGrad's preconditioner",
    notes="c and the bound are SPS's; 1 and none give the paper's step. The preconditioner by Hutchinson's method needs second "
    "derivatives and is not here, nor are the forms with slack.",
    space={"lr": log(1e-3, 10.0), "c": linear(0.2, 1.0)},
)
def psps(
    lr: Hyper = 1.0,
    c: Hyper = 0.5,
    f_star: Hyper = 0.0,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    preconditioner: Preconditioner = "adam",
):
    return chain(Psps(lr, c, f_star, b2, eps, preconditioner))


@psps.claim("badly scaled coordinates, at which SPS fails, do not slow it down", where="abstract")
def scales(lab):
    def fall(method, scale, **hypers):
        a = lab.curvature() * scale

        def loss(x):
            return (a * (x - 3)).square().sum() / 2

        return float(loss(lab.minimise(method, loss, steps=60, lr=1e9, c=1.0, **hypers)) / loss(lab.start()))

    for kind in ("adam", "adagrad"):
        even = fall(psps, 1.0, preconditioner=kind, eps=0.0)
        yield lab.close(fall(psps, 1e3, preconditioner=kind, eps=0.0), even, rtol=1e-6)
    uneven = lab.curvature() ** 3  # the columns' scales now span four orders of magnitude
    yield lab.less(2 * fall(psps, uneven, preconditioner="adagrad"), fall(lab.method("sps"), uneven))


@psps.claim(
    "the first step reaches the lowest value of the linear model, whatever the preconditioner",
    where="the step, in its own metric",
)
def model_is_solved(lab):
    for kind in ("adam", "adagrad"):
        step = lab.minimise(psps, lambda x: (lab.gradient() * x).sum() + 50, 1, lr=1e9, c=1.0, preconditioner=kind)
        yield lab.less(abs(float((lab.gradient() * step).sum() + 50)), 1e-9)
