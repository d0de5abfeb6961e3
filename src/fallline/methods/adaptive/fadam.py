r"""FAdam: Adam as a natural gradient method: clip the natural gradient, then average it, and decay in the same geometry.

.. math::
    f_t = \hat b_2 f_{t-1} + (1 - \hat b_2) g_t^2, \quad
    m_t = b_1 m_{t-1} + (1 - b_1)\, \mathrm{clip}\Bigl(\frac{g_t}{\sqrt{f_t} + \epsilon_t}\Bigr), \quad
    u_t = m_t + \lambda\, \mathrm{clip}\Bigl(\frac{p}{\sqrt{f_t} + \epsilon_t}\Bigr)

with :math:`\hat b_2 = b_2 (1 - b_2^{t-1}) / (1 - b_2^t)`, :math:`\epsilon_t = \min(\epsilon, \epsilon_2\, \mathrm{RMS}(g_t))`,
and clip to a root mean square of at most ``max_rms``.
"""

from __future__ import annotations

import torch

from fallline.core.hyper import Domain
from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper, Reach
from fallline.transforms import descend
from fallline.transforms.clip import rms, within_rms


@transform
class ScaleByFadam(Transform):
    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    eps2: Hyper = 1e-2
    max_rms: Hyper = 1.0
    weight_decay: Hyper = 1e-3
    reach = Reach.TENSOR
    slots = zeros("m", "f")
    nonnegative = frozenset({"f"})
    domains = {"eps": Domain("(0, inf)"), "eps2": Domain("(0, inf)"), "max_rms": Domain("(0, inf)")}

    def update(self, u, at, *, m, f):
        b2 = 1 - (1 - self.b2) / (1 - self.b2**at.t)
        f = b2 * f + (1 - b2) * (u * u)
        size = self.eps2 * rms(u)
        root = f.sqrt() + torch.where(size > 0, size.clamp(max=self.eps), self.eps)
        m = self.b1 * m + (1 - self.b1) * within_rms(u / root, self.max_rms)
        return m + self.weight_decay * within_rms(at.p / root, self.max_rms), {"m": m, "f": f}


@method(
    label="FAdam",
    title="FAdam: Adam is a natural gradient optimizer using diagonal empirical Fisher information",
    arxiv="2405.12807",
    year=2024,
    section="algorithm 1",
    notes="The first mean is not corrected for its start at zero, as in the paper. Where the whole gradient is zero eps stands in "
    "for eps_t (the paper divides zero by zero). The linked code divides max(1, RMS) by the clip; the paper takes "
    "max(1, RMS / clip); they agree at the default 1. Versions of the paper differ in eps, eps2 and the decay.",
    space={"lr": log(3e-4, 3e-1), "b1": one_minus_log(0.5, 0.99), "weight_decay": log(1e-4, 1.0)},
)
def fadam(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    eps2: Hyper = 1e-2,
    weight_decay: Hyper = 1e-3,
    max_rms: Hyper = 1.0,
):
    return chain(ScaleByFadam(b1, b2, eps, eps2, max_rms, weight_decay), descend(lr))


@fadam.claim(
    "the root mean square of a step is at most lr, for gradients of any scale and however they jump",
    where="algorithm 1",
)
def clipped(lab):
    path = lab.follow(fadam, [lab.gradient(seed=t, scale=10.0 ** (t % 7)) for t in range(40)], lr=0.1, weight_decay=0.0)
    largest = max(float((b - a).square().mean().sqrt()) for a, b in zip(path, path[1:], strict=False))
    yield lab.less(largest, 0.1)


@fadam.claim("weight decay lives in the same geometry: coordinates of large gradients decay less", where="section 3.4")
def decay_is_preconditioned(lab):
    with_decay, without = (lab.one_step(fadam, lr=0.1, weight_decay=w, max_rms=1e9) for w in (0.01, 0.0))
    yield lab.close(with_decay - without, -0.1 * 0.01 * lab.start() / lab.gradient().abs(), rtol=1e-6)
