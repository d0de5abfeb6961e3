r"""DoG: SGD whose step is the farthest distance from the start, over the root of all squared gradients so far.

.. math::
    \eta_t = \frac{\bar r_t}{\sqrt{\sum_{i \le t} \|g_i\|^2 + \epsilon}}, \qquad
    \bar r_t = \max\big(r_\epsilon, \max_{i \le t} \|x_i - x_0\|\big), \qquad r_\epsilon = \mathrm{reps\_rel}\,(1 + \|x_0\|)

``lr`` = 1 is the method. Judge it at an average: ``chain(dog(), average(gamma=8))``.
"""

from __future__ import annotations

import torch

from fallline.core.method import method
from fallline.core.space import log
from fallline.core.transform import Transform, chain, scalars, transform
from fallline.core.types import Hyper, Reach
from fallline.transforms import add_l2, descend
from fallline.transforms.average import clone


@transform
class ScaleByDog(Transform):
    reps_rel: Hyper = 1e-6
    eps: Hyper = 1e-8
    slots = {"x0": clone, **scalars("r", "sum")}
    nonnegative = frozenset({"r", "sum"})
    reach = Reach.GROUP

    def measure(self, u, at, *, x0, r, sum):
        return torch.stack([(at.p - x0).square().sum(), u.square().sum(), x0.square().sum()])

    def update(self, u, at, *, x0, r, sum):
        distance, square, start = at.totals
        r = torch.maximum(torch.maximum(r, distance.sqrt()), self.reps_rel * (1 + start.sqrt()))
        sum = sum + square
        return r / (sum + self.eps).sqrt() * u, {"r": r, "sum": sum}


@method(
    label="DoG",
    title="DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule",
    arxiv="2302.12022",
    year=2023,
    section="equation 1 and section 4.1",
    notes="reps_rel is the authors' 1e-6 (1e-4 with batch normalisation). Decay enters the gradient, as in their code.",
    space={"lr": log(0.1, 10.0), "reps_rel": log(1e-8, 1e-2), "weight_decay": log(1e-6, 1e-2)},
    xfail={
        "bfloat16_makes_float32_progress": "the contract sets lr by the length of the first step, here tiny on purpose"
    },
)
def dog(lr: Hyper = 1.0, reps_rel: Hyper = 1e-6, eps: Hyper = 1e-8, weight_decay: Hyper = 0.0):
    return chain(add_l2(weight_decay), ScaleByDog(reps_rel, eps), descend(lr))


@dog.claim("it does not see the scale of the gradient", where="section 2")
def scale_invariance(lab):
    grads = [lab.gradient(seed=t) for t in range(12)]
    large = lab.follow(dog, [1e6 * g for g in grads], eps=0.0)[-1]
    yield lab.close(large - lab.start(), lab.follow(dog, grads, eps=0.0)[-1] - lab.start(), rtol=1e-6)


@dog.claim(
    "the first step has length r_eps, and from then on the distance grows as fast as it has to", where="section 2"
)
def first_step(lab):
    path = lab.follow(dog, [lab.gradient()] * 200, eps=0.0)
    yield lab.close((path[1] - path[0]).norm(), 1e-6 * (1 + lab.start().norm()), rtol=1e-6)
    yield lab.less(1.0, float((path[-1] - path[0]).norm()))  # a million times further, with nothing tuned
