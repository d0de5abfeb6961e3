r"""SGD with Armijo's line search: on each batch the largest rate of a sequence at which the batch's own loss falls enough.

.. math:: f_t(p - \eta g_t) \le f_t(p) - c\, \eta\, \|g_t\|^2, \qquad
    \eta \in \{\eta_0, \beta \eta_0, \beta^2 \eta_0, \ldots\}, \quad \eta_0 = \min(\mathrm{lr}, \gamma\, \eta_{t-1})

``lr`` is the largest rate, :math:`\beta` = ``shrink``, :math:`\gamma` = ``growth``. A loss for every trial: ``optimizer.step(closure)``.
"""

from __future__ import annotations

from fallline.core.gradients import Search
from fallline.core.hyper import Domain
from fallline.core.method import method
from fallline.core.space import log
from fallline.core.transform import Transform, chain, transform
from fallline.core.types import Hyper, Reach


@transform
class ArmijoSearch(Transform):
    lr: Hyper = 1.0
    c: Hyper = 0.1
    shrink: Hyper = 0.9
    growth: Hyper = 2 ** (1 / 500)
    most: int = 100
    domains = {"c": Domain("(0, 1)"), "shrink": Domain("(0, 1)"), "growth": Domain("(0, inf)")}
    reach = Reach.GROUP
    slots = {"share": lambda step, p: p.new_ones(())}  # of lr, so that a schedule moves the rates that are tried
    gradients = {
        "share": Search(
            first=lambda step, before: min(1.0, float(step.growth) * before),
            factor=lambda step: float(step.shrink),
            most=lambda step: step.most,
            point=lambda step, at, x: at.p - step.lr * x * at.g,
            accepts=lambda step, loss, start, x, total: loss <= start - float(step.c) * float(step.lr) * x * total,
        )
    }

    def measure(self, u, at, **_):
        return u.square().sum()

    def update(self, u, at, *, share):
        return self.lr * share * u, {}


@method(
    label="ArmijoSGD",
    title="Painless Stochastic Gradient: Interpolation, Line-Search, and Convergence Rates",
    arxiv="1905.09997",
    year=2019,
    section="algorithm 1, reset option 2",
    notes="c = 0.1, shrink = 0.9 and a doubling in 500 batches are those of the authors' code. The rate is kept as a share of lr. After 100 "
    "trials the last rate is taken. Under DDP the closure must return the mean loss of all ranks, or they part. Each trial counts as a gradient, since the closure computes one.",
    space={"lr": log(1e-1, 1e2)},
    xfail={
        "nothing_is_read_back": "whether the search goes on is read from the loss",
        "maximize_is_descent_on_minus_g": "a search needs the loss to change its sign with the gradient; the contract's does not",
    },
)
def armijo_sgd(lr: Hyper = 1.0, c: Hyper = 0.1, shrink: Hyper = 0.9, growth: Hyper = 2 ** (1 / 500), most: int = 100):
    return chain(ArmijoSearch(lr, c, shrink, growth, most))


@armijo_sgd.claim("the loss never grows, however large lr", where="section 3, equation 1")
def never_grows(lab):
    h = lab.curvature()
    for lr in (1.0, 1e3):
        losses = [
            float((h * lab.minimise(armijo_sgd, lambda x: (h * x * x).sum(), steps=t, lr=lr) ** 2).sum())
            for t in range(8)
        ]
        yield lab.less(max(b / a for a, b in zip(losses, losses[1:], strict=False)), 1.0)


@armijo_sgd.claim(
    "on a quadratic of curvature L the rate is at least min(lr, 2 (1 - c) shrink / L) and at most 2 (1 - c) / L",
    where="lemma 1",
)
def rate_of_a_quadratic(lab):
    for curvature in (0.1, 10.0):
        moved = lab.minimise(armijo_sgd, lambda x, a=curvature: a * x.square().sum() / 2, steps=1, lr=1e3) - lab.start()
        rate = float((moved / lab.start()).abs().max()) / curvature
        yield lab.less(0.999 * 2 * (1 - 0.1) * 0.9 / curvature, rate)
        yield lab.less(rate, 1.001 * 2 * (1 - 0.1) / curvature)
