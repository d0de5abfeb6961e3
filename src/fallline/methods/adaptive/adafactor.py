r"""Adafactor: Adam's second moment of a matrix as the product of its row and column means, in sublinear memory.

.. math::
    R_t = \hat b_2 R_{t-1} + (1 - \hat b_2)\, \mathrm{mean}_{\mathrm{row}}(g_t^2 + \epsilon_1), \quad C_t \text{ likewise}, \qquad
    u_t = \mathrm{clip}_d\Bigl(\frac{g_t}{\sqrt{R_t C_t / \mathrm{mean}(R_t)}}\Bigr), \\
    p \leftarrow p - \max(\epsilon_2, \mathrm{RMS}(p))\, \min(\mathrm{lr}, 1 / \sqrt t)\, u_t

with :math:`\hat b_2 = 1 - t^{-c}` and clip to a root mean square of at most d; vectors keep their whole second moment.
"""

from __future__ import annotations

from typing import Literal

import torch

from fallline.core.hyper import Domain
from fallline.core.method import method
from fallline.core.space import linear, log
from fallline.core.transform import Transform, chain, transform
from fallline.core.types import Hyper, Reach
from fallline.transforms import clip_by_rms, decay, descend
from fallline.transforms.clip import rms


@transform
class ScaleByFactoredRms(Transform):
    """g / sqrt(R C / mean R) over the last two dimensions; for vectors r is the whole second moment and c is not used"""

    decay_rate: Hyper = 0.8
    eps1: Hyper = 1e-30
    decay_type: str = "power"
    reach = Reach.MATRIX
    slots = {
        "r": lambda step, p: p.new_zeros(p.shape[:-1]) if p.dim() > 1 else torch.zeros_like(p),
        "c": lambda step, p: p.new_zeros(p.shape[:-2] + p.shape[-1:] if p.dim() > 1 else ()),
    }
    nonnegative = frozenset({"r", "c"})
    domains = {"decay_rate": Domain("[0, 1)"), "eps1": Domain("(0, inf)")}

    def update(self, u, at, *, r, c):
        b2 = self._b2(at.t)
        square = u * u + self.eps1
        if u.dim() < 2:
            r = b2 * r + (1 - b2) * square
            return u / r.sqrt(), {"r": r, "c": c}
        r = b2 * r + (1 - b2) * square.mean(-1)
        c = b2 * c + (1 - b2) * square.mean(-2)
        rows = (r / r.mean(-1, keepdim=True)).sqrt().unsqueeze(-1)
        return u / rows / c.sqrt().unsqueeze(-2), {"r": r, "c": c}

    def _b2(self, t):
        if self.decay_type == "power":
            return 1 - t**-self.decay_rate
        return self.decay_rate * (1 - self.decay_rate ** (t - 1)) / (1 - self.decay_rate**t)


@transform
class RelativeStep(Transform):
    """u <- max(eps2, RMS(p)) min(lr, 1 / sqrt t) u"""

    lr: Hyper
    eps2: Hyper = 1e-3
    reach = Reach.TENSOR

    def update(self, u, at):
        slower = at.t**-0.5
        rate = (self.lr + slower - abs(self.lr - slower)) / 2  # the smaller of the two, for numbers and tensors alike
        return rms(at.p).clamp(min=self.eps2) * rate * u, {}


@method(
    label="Adafactor",
    title="Adafactor: Adaptive Learning Rates with Sublinear Memory Cost",
    arxiv="1804.04235",
    year=2018,
    section="algorithms 4 and 5",
    notes="relative_step=False takes lr itself. decay_type='constant' reads decay_rate as Adam's b2 with its bias correction "
    "(section 7.1). The paper has no weight decay; it is 1 - lr lambda, as in torch. eps1 is added to the square; torch bounds "
    "the second moment by its square instead. Tensors of more dimensions are stacks of matrices.",
    space={"lr": log(1e-3, 1.0), "decay_rate": linear(0.5, 0.95)},
    xfail={"compact_state_is_compact": "a row or a column of 256 numbers is too short for blocks of 8 bits"},
)
def adafactor(
    lr: Hyper = 1e-2,
    decay_rate: Hyper = 0.8,
    eps1: Hyper = 1e-30,
    eps2: Hyper = 1e-3,
    max_rms: Hyper = 1.0,
    weight_decay: Hyper = 0.0,
    relative_step: bool = True,
    decay_type: Literal["power", "constant"] = "power",
):
    rate = RelativeStep(lr, eps2) if relative_step else descend(lr)
    scale = ScaleByFactoredRms(decay_rate, eps1, decay_type)
    return chain(scale, clip_by_rms(max_rms), rate, decay(lr * weight_decay))


@adafactor.claim("the second moment of an n by m matrix takes n + m numbers", where="section 3")
def sublinear_memory(lab):
    yield lab.ratio(adafactor.state_bytes() * 256 * 256, 4.0, equals=256 + 256)


@adafactor.claim(
    "the factors are exact where the squared gradient has rank one: the first step is a sign", where="section 3"
)
def exact_on_rank_one(lab):
    rank_one = lab.gradient()[:, :1] * lab.gradient(seed=2)[:1]
    path = lab.follow(adafactor, [rank_one], lr=0.1, relative_step=False)
    yield lab.close(path[1] - path[0], -0.1 * rank_one.sign())


@adafactor.claim("the root mean square of a step is at most lr times that of the parameter", where="sections 6 and 8")
def clipped(lab):
    path = lab.follow(adafactor, [lab.gradient(seed=t, scale=10.0 ** (t % 5)) for t in range(20)])
    for before, after in zip(path, path[1:], strict=False):
        size = float(before.square().mean().sqrt())
        yield lab.less(float((after - before).square().mean().sqrt()), 0.01 * size * (1 + 1e-9))
