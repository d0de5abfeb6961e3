r"""AdamS: AdamW with a weight decay that is divided by the root of the mean second moment, as steps are by their own.

.. math::
    \bar v_t = \mathrm{mean}(\hat v_t) \text{ over all parameters}, \qquad
    u_t = \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon} + \frac{\lambda}{\sqrt{\bar v_t}}\, p, \qquad p \leftarrow p - \mathrm{lr}\, u_t

with :math:`\hat m_t, \hat v_t` as in Adam: weights decay towards where an L2 penalty would hold them.
"""

from __future__ import annotations

import torch

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper, Reach
from fallline.transforms import descend


@transform
class ScaleByAdams(Transform):
    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    weight_decay: Hyper = 1e-4
    reach = Reach.GROUP
    slots = zeros("m", "v")
    nonnegative = frozenset({"v"})

    def measure(self, u, at, *, m, v):
        v_hat = v.lerp(u * u, 1 - self.b2) / (1 - self.b2**at.t)
        return torch.stack([v_hat.sum(), torch.ones_like(v_hat).sum()])

    def update(self, u, at, *, m, v):
        m, v = m.lerp(u, 1 - self.b1), v.lerp(u * u, 1 - self.b2)
        m_hat, v_hat = m / (1 - self.b1**at.t), v / (1 - self.b2**at.t)
        total, count = at.totals
        mean = (total / count).sqrt()
        decay = torch.where(mean > 0, self.weight_decay / mean, torch.zeros_like(mean))
        return m_hat / (v_hat.sqrt() + self.eps) + decay * at.p, {"m": m, "v": v}


@method(
    label="AdamS",
    title="On the Overlooked Pitfalls of Weight Decay and How to Mitigate Them: A Gradient-Norm Perspective",
    arxiv="2011.11152",
    year=2020,
    section="AdamS, Adam with stable weight decay",
    notes="The mean is over all tensors, as in the authors' code, whose demonstration turns AMSGrad on; it is off here. Where the "
    "mean is zero nothing decays.",
    space={"lr": log(3e-4, 3e-1), "b1": one_minus_log(0.5, 0.99), "weight_decay": log(1e-6, 1e-2)},
)
def adams(lr: Hyper = 1e-3, b1: Hyper = 0.9, b2: Hyper = 0.999, eps: Hyper = 1e-8, weight_decay: Hyper = 1e-4):
    return chain(ScaleByAdams(b1, b2, eps, weight_decay), descend(lr))


@adams.claim("without decay it is Adam", where="AdamS")
def adam_without_decay(lab):
    grads = [lab.gradient(seed=t) for t in range(6)]
    ours, adam = (lab.follow(m, grads, lr=0.1, weight_decay=0.0)[-1] for m in (adams, lab.method("adam")))
    yield lab.close(ours, adam, rtol=1e-12)


@adams.claim(
    "the decay is divided by the root of the mean squared gradient, so that its strength is an L2 penalty's",
    where="stable weight decay",
)
def decays_like_the_gradient(lab):
    def decayed(method, scale):
        return lab.one_step(method, scale=scale, lr=0.1, weight_decay=0.1) - lab.one_step(
            method, scale=scale, lr=0.1, weight_decay=0.0
        )

    rms = float(lab.gradient().square().mean().sqrt())
    for scale in (0.1, 10.0):
        yield lab.close(decayed(adams, scale), -0.1 * 0.1 / (scale * rms) * lab.start())
        yield lab.close(decayed(lab.method("adamw"), scale), -0.1 * 0.1 * lab.start())
