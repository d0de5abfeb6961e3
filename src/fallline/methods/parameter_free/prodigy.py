r"""Prodigy: D-Adaptation for Adam with gradients weighed by d squared, so that its estimate of the distance grows faster.

.. math::
    m_{k+1} &= b_1 m_k + (1 - b_1) d_k g_k, \quad v_{k+1} = b_2 v_k + (1 - b_2) d_k^2 g_k^2 \\
    r_{k+1} &= \sqrt{b_2}\, r_k + (1 - \sqrt{b_2}) \gamma d_k^2 \langle g_k, x_0 - x_k \rangle, \quad
    s_{k+1} = \sqrt{b_2}\, s_k + (1 - \sqrt{b_2}) \gamma d_k^2 g_k \\
    x_{k+1} &= x_k - \gamma d_k \frac{m_{k+1}}{\sqrt{v_{k+1}} + d_k \epsilon}, \quad
    d_{k+1} = \max\Big(d_k, \frac{r_{k+1}}{\|s_{k+1}\|_1}\Big)

with :math:`\gamma` = ``lr``, of which 1 is the method; schedules multiply it. Sums go over all tensors.
"""

from __future__ import annotations

import torch

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, scalars, transform, zeros
from fallline.core.types import Hyper, Reach
from fallline.transforms.average import clone


@transform
class Prodigy(Transform):
    lr: Hyper = 1.0
    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    weight_decay: Hyper = 0.0
    d0: float = 1e-6
    slots = {"x0": clone, **zeros("m", "v", "s"), **scalars("r"), "d": lambda step, p: p.new_full((), step.d0)}
    nonnegative = frozenset({"v", "d"})
    reach = Reach.GROUP

    def measure(self, u, at, *, x0, m, v, s, r, d):
        return torch.stack([r, s.abs().sum()])

    def update(self, u, at, *, x0, m, v, s, r, d):
        above, below = at.totals  # d_k belongs to the sums that the last step left
        d = torch.maximum(d, above / (below + (below == 0)))
        b3 = self.b2**0.5
        weight = (
            (1 - b3) * self.lr * d * (d / self.d0)
        )  # over d0, which cancels in the ratio and keeps float32 in range
        r = b3 * r + weight * (u * (x0 - at.p)).sum()
        s = b3 * s + weight * u
        m = self.b1 * m + (1 - self.b1) * d * u
        v = v.lerp((d * u) ** 2, 1 - self.b2)
        step = m / (v.sqrt() + d * self.eps) + self.weight_decay * at.p
        return self.lr * d * step, {"m": m, "v": v, "s": s, "r": r, "d": d}


@method(
    label="Prodigy",
    title="Prodigy: An Expeditiously Adaptive Parameter-Free Learner",
    arxiv="2306.06101",
    year=2023,
    section="algorithm 4",
    notes="eps is multiplied by d_k as in the paper, by d_{k+1} in the authors' package. No bias correction and no warm-up "
    "safeguard, as there by default. Decay is decoupled.",
    space={"lr": log(0.1, 10.0), "b1": one_minus_log(0.5, 0.99), "weight_decay": log(1e-4, 1.0)},
)
def prodigy(
    lr: Hyper = 1.0,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    d0: float = 1e-6,
):
    return chain(Prodigy(lr, b1, b2, eps, weight_decay, d0))


@prodigy.claim("it does not see the scale of the objective", where="section 3")
def scale_invariance(lab):
    grads = [lab.gradient() + 0.1 * lab.gradient(seed=t) for t in range(50)]
    large = lab.follow(prodigy, [1e5 * g for g in grads], eps=0.0)[-1]
    yield lab.close(large - lab.start(), lab.follow(prodigy, grads, eps=0.0)[-1] - lab.start(), rtol=1e-9)


@prodigy.claim(
    "without moving averages it is sign descent, by steps of max(d, <g, x_0 - x> / ||g||_1)",
    where="Bernstein & Newhouse, arXiv:2409.20325, section 4",
)
def sign_descent_that_grows(lab):
    grads = [lab.gradient(seed=t) + lab.gradient() for t in range(12)]
    ours = lab.follow(prodigy, grads, b1=0.0, b2=0.0, eps=0.0, d0=1e-2)
    d, x = 1e-2, lab.start()
    for g in grads:
        x, above = x - d * g.sign(), (g * (lab.start() - x)).sum()
        d = max(d, float(above / g.abs().sum()))
    yield lab.close(ours[-1], x, rtol=1e-9)
