r"""L-DoG: DoG with a step of its own for each tensor.

.. math::
    \eta_t = \frac{\bar r_t}{\sqrt{\sum_{i \le t} \|g_i\|^2 + \epsilon}}, \qquad
    \bar r_t = \max\big(r_\epsilon, \max_{i \le t} \|x_i - x_0\|\big), \qquad r_\epsilon = \mathrm{reps\_rel}\,(1 + \|x_0\|)

with the norms of one tensor. ``lr`` = 1 is the method. Judge it at an average: ``chain(l_dog(), average(gamma=8))``.
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
class ScaleByLDog(Transform):
    reps_rel: Hyper = 1e-6
    eps: Hyper = 1e-8
    slots = {"x0": clone, **scalars("r", "sum")}
    nonnegative = frozenset({"r", "sum"})
    reach = Reach.TENSOR

    def update(self, u, at, *, x0, r, sum):
        r = torch.maximum(torch.maximum(r, (at.p - x0).norm()), self.reps_rel * (1 + x0.norm()))
        sum = sum + u.square().sum()
        return r / (sum + self.eps).sqrt() * u, {"r": r, "sum": sum}


@method(
    label="LDoG",
    title="DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule",
    arxiv="2302.12022",
    year=2023,
    section="section 4.4",
    notes="reps_rel is the authors' 1e-6 (1e-4 with batch normalisation). Decay enters the gradient, as in their code.",
    space={"lr": log(0.1, 10.0), "reps_rel": log(1e-8, 1e-2), "weight_decay": log(1e-6, 1e-2)},
    xfail={
        "bfloat16_makes_float32_progress": "the contract sets lr by the length of the first step, here tiny on purpose"
    },
)
def l_dog(lr: Hyper = 1.0, reps_rel: Hyper = 1e-6, eps: Hyper = 1e-8, weight_decay: Hyper = 0.0):
    return chain(add_l2(weight_decay), ScaleByLDog(reps_rel, eps), descend(lr))


@l_dog.claim("on a single tensor it is DoG", where="section 4.4")
def one_tensor(lab):
    grads = [lab.gradient(seed=t) for t in range(12)]
    ours, dog = (lab.follow(m, grads, reps_rel=1e-2)[-1] for m in (l_dog, lab.method("dog")))
    yield lab.close(ours, dog, rtol=1e-12)
