r"""D-Adaptation for SGD: a lower bound on the distance to the solution, which only grows, sets the rate.

.. math::
    \lambda_k = \frac{\mathrm{lr}\, d_k}{\|g_0\|}, \quad s_{k+1} = s_k + \lambda_k g_k, \quad
    x_{k+1} = \beta x_k + (1 - \beta) (x_0 - s_{k+1}), \quad
    d_{k+1} = \max\Big(d_k, \frac{2 \sum_i \lambda_i \langle g_i, s_i \rangle}{\|s_{k+1}\|}\Big)

``lr`` = 1 is the method; schedules multiply it. Sums go over all tensors.
"""

from __future__ import annotations

import torch

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, scalars, transform, zeros
from fallline.core.types import Hyper, Reach
from fallline.transforms import add_l2
from fallline.transforms.average import clone


@transform
class DAdaptSGD(Transform):
    lr: Hyper = 1.0
    momentum: Hyper = 0.0
    d0: float = 1e-6
    slots = {"x0": clone, **zeros("s"), **scalars("r", "g0"), "d": lambda step, p: p.new_full((), step.d0)}
    nonnegative = frozenset({"g0", "d"})
    reach = Reach.GROUP

    def measure(self, u, at, *, x0, s, r, g0, d):
        return torch.stack([r, s.square().sum(), u.square().sum()])

    def update(self, u, at, *, x0, s, r, g0, d):
        above, below, square = at.totals  # d_k belongs to the sums that the last step left
        d = torch.maximum(d, 2 * above / (below.sqrt() + (below == 0)))
        g0 = torch.where(g0 > 0, g0, square.sqrt())
        rate = self.lr * d / (g0 + (g0 == 0))
        r = r + rate * (u * s).sum()
        s = s + rate * u
        return (1 - self.momentum) * (at.p - x0 + s), {"s": s, "r": r, "g0": g0, "d": d}


@method(
    label="DAdaptSGD",
    title="Learning-Rate-Free Learning by D-Adaptation",
    arxiv="2301.07733",
    year=2023,
    section="algorithm 4",
    notes="G is the norm of the first gradient, as in the authors' package, which checks the sums at the end of a step, "
    "where here the next step does: the same d. Decay enters the gradient.",
    space={"lr": log(0.1, 10.0), "momentum": one_minus_log(0.1, 0.99), "weight_decay": log(1e-6, 1e-2)},
    xfail={
        "bfloat16_makes_float32_progress": "the contract sets lr by the length of the first step, here tiny on purpose"
    },
)
def d_adapt_sgd(lr: Hyper = 1.0, momentum: Hyper = 0.0, weight_decay: Hyper = 0.0, d0: float = 1e-6):
    return chain(add_l2(weight_decay), DAdaptSGD(lr, momentum, d0))


@d_adapt_sgd.claim("it does not see the scale of the objective", where="section 2")
def scale_invariance(lab):
    loss = lambda scale: lambda x: scale * (x - 3).abs().sum()  # noqa: E731
    ends = [lab.minimise(d_adapt_sgd, loss(s), steps=50) for s in (1.0, 1e5)]
    yield lab.close(ends[1], ends[0], rtol=1e-9)


@d_adapt_sgd.claim("d is never above the distance to the solution, and grows towards it", where="theorem 1")
def lower_bound(lab):
    away = lab.minimise(d_adapt_sgd, lambda x: (x - 3).norm(), steps=200) - lab.start()
    far = float((lab.start() - 3).norm())
    yield lab.less(0.1 * far, float(away.norm()))
    yield lab.less(float(away.norm()), 3 * far)
