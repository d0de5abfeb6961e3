r"""AdGD: gradient descent whose step follows the smoothness seen between the last two iterates.

.. math::
    \lambda_k = \min\Big(\sqrt{1 + \theta_{k-1}}\, \lambda_{k-1}, \frac{\|x_k - x_{k-1}\|}{2 \|g_k - g_{k-1}\|}\Big), \qquad
    \theta_k = \frac{\lambda_k}{\lambda_{k-1}}, \qquad x_{k+1} = x_k - \lambda_k g_k

``lr`` = 1 is the method and multiplies :math:`\lambda`; norms go over all tensors. Meant for gradients without noise.
"""

from __future__ import annotations

import torch

from fallline.core.method import method
from fallline.core.space import log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper, Reach
from fallline.transforms import add_l2, descend
from fallline.transforms.average import clone
from fallline.transforms.smoothness import INFINITE, next_step


@transform
class ScaleByAdgd(Transform):
    initial_step: float = 1e-6
    slots = {
        "x": clone,
        **zeros("g"),
        "step": lambda step, p: p.new_full((), step.initial_step),
        "theta": lambda step, p: p.new_full((), INFINITE),
    }
    nonnegative = frozenset({"step", "theta"})
    reach = Reach.GROUP

    def measure(self, u, at, *, x, g, step, theta):
        return torch.stack([(at.p - x).square().sum(), (u - g).square().sum()])

    def update(self, u, at, *, x, g, step, theta):
        new, theta = next_step(*at.totals, step, theta)
        return new * u, {"x": at.p, "g": u, "step": new, "theta": theta}


@method(
    label="AdGD",
    title="Adaptive Gradient Descent without Descent",
    arxiv="1910.09529",
    year=2019,
    section="algorithm 1",
    notes="The infinite theta of the start is 1e12, as in the authors' code. Where neither iterate nor gradient changed, the "
    "step stays (the paper divides zero by zero).",
    space={"lr": log(0.1, 3.0), "weight_decay": log(1e-6, 1e-2)},
    xfail={
        "bfloat16_makes_float32_progress": "the contract sets lr by the length of the first step, here tiny on purpose"
    },
)
def adgd(lr: Hyper = 1.0, weight_decay: Hyper = 0.0, initial_step: float = 1e-6):
    return chain(add_l2(weight_decay), ScaleByAdgd(initial_step), descend(lr))


@adgd.claim("it needs no knowledge of the smoothness: the scale of the objective does not matter", where="section 2")
def any_smoothness(lab):
    for scale in (1e-2, 1e2):
        end = lab.minimise(adgd, lambda x, a=scale: a * (lab.curvature() * x * x).sum(), steps=150)
        yield lab.less(float(end.norm()), 1e-3)


@adgd.claim("on a quadratic of one curvature h the step is 1 / (2 h) from the second on", where="algorithm 1")
def half_the_inverse_curvature(lab):
    steps = [lab.minimise(adgd, lambda x: 3.0 * x.square().sum() / 2, steps=t) for t in (3, 4)]
    yield lab.close(steps[1], (1 - 3.0 / 6.0) * steps[0], rtol=1e-6)
