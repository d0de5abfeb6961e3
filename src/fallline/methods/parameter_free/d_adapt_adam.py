r"""D-Adaptation for Adam: a lower bound on the distance to the solution, which only grows, sets Adam's rate.

.. math::
    \lambda_k &= \mathrm{lr}\, d_k, \quad m_{k+1} = b_1 m_k + (1 - b_1) \lambda_k g_k, \quad v_{k+1} = b_2 v_k + (1 - b_2) g_k^2 \\
    s_{k+1} &= \sqrt{b_2}\, s_k + (1 - \sqrt{b_2}) \lambda_k g_k, \quad
    r_{k+1} = \sqrt{b_2}\, r_k + (1 - \sqrt{b_2}) \lambda_k \Big\langle g_k, \frac{s_k}{\sqrt{v_k} + \epsilon} \Big\rangle \\
    x_{k+1} &= x_k - \frac{m_{k+1}}{\sqrt{v_{k+1}} + \epsilon}, \quad
    d_{k+1} = \max\Big(d_k, \frac{r_{k+1}}{(1 - \sqrt{b_2}) \|s_{k+1}\|_1}\Big)

``lr`` = 1 is the method; schedules multiply it. Sums go over all tensors. Decay is decoupled, :math:`\lambda_k` times it.
"""

from __future__ import annotations

import torch

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, scalars, transform, zeros
from fallline.core.types import Hyper, Reach


@transform
class DAdaptAdam(Transform):
    lr: Hyper = 1.0
    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    weight_decay: Hyper = 0.0
    d0: float = 1e-6
    slots = {**zeros("m", "v", "s"), **scalars("r"), "d": lambda step, p: p.new_full((), step.d0)}
    nonnegative = frozenset({"v", "d"})
    reach = Reach.GROUP

    def measure(self, u, at, *, m, v, s, r, d):
        return torch.stack([r, s.abs().sum()])

    def update(self, u, at, *, m, v, s, r, d):
        above, below = at.totals  # d_k belongs to the sums that the last step left
        b3 = self.b2**0.5
        d = torch.maximum(d, above / ((1 - b3) * below + (below == 0)))
        rate = self.lr * d
        r = b3 * r + (1 - b3) * rate * (u * s / (v.sqrt() + self.eps)).sum()
        s = b3 * s + (1 - b3) * rate * u
        m = self.b1 * m + (1 - self.b1) * rate * u
        v = v.lerp(u * u, 1 - self.b2)
        step = m / (v.sqrt() + self.eps) + self.weight_decay * rate * at.p
        return step, {"m": m, "v": v, "s": s, "r": r, "d": d}


@method(
    label="DAdaptAdam",
    title="Learning-Rate-Free Learning by D-Adaptation",
    arxiv="2301.07733",
    year=2023,
    section="algorithm 5",
    notes="<g_k, s_k> is weighed by the v before this gradient, as in the authors' package; no bias correction, as there by "
    "default. The package checks the sums at the end of a step, here the next step does: the same d.",
    space={"lr": log(0.1, 10.0), "b1": one_minus_log(0.5, 0.99), "weight_decay": log(1e-4, 1.0)},
)
def d_adapt_adam(
    lr: Hyper = 1.0,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    d0: float = 1e-6,
):
    return chain(DAdaptAdam(lr, b1, b2, eps, weight_decay, d0))


@d_adapt_adam.claim("it does not see the scale of the objective", where="section 2")
def scale_invariance(lab):
    grads = [lab.gradient() + 0.1 * lab.gradient(seed=t) for t in range(50)]
    large = lab.follow(d_adapt_adam, [1e5 * g for g in grads], eps=0.0)[-1]
    yield lab.close(large - lab.start(), lab.follow(d_adapt_adam, grads, eps=0.0)[-1] - lab.start(), rtol=1e-9)


@d_adapt_adam.claim("from an estimate a million times too small it finds the scale of the problem", where="section 5")
def grows(lab):
    away = (lab.minimise(d_adapt_adam, lambda x: (x - 3).abs().sum(), steps=200) - lab.start()).abs().max()
    far = float((lab.start() - 3).abs().max())
    yield lab.less(far / 10, float(away))
    yield lab.less(float(away), 3 * far)
