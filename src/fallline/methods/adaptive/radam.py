r"""RAdam: Adam whose ratio is switched on, and scaled, as its second moment gathers enough samples.

.. math::
    \rho_\infty = \frac{2}{1 - b_2} - 1, \quad \rho_t = \rho_\infty - \frac{2 t b_2^t}{1 - b_2^t}, \quad
    r_t = \sqrt{\frac{(\rho_t - 4)(\rho_t - 2)\rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2)\rho_t}}, \quad
    u_t = \hat m_t \cdot \begin{cases} r_t / (\text{root of } \hat v_t) & \rho_t > \bar\rho \\ 1 & \text{else} \end{cases}
"""

from __future__ import annotations

from typing import Literal

import torch

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper
from fallline.transforms import add_l2, decay, descend


@transform
class ScaleByRadam(Transform):
    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    threshold: float = 5.0
    slots = zeros("m", "v")
    nonnegative = frozenset({"v"})

    def update(self, u, at, *, m, v):
        m = m.lerp(u, 1 - self.b1)
        v = v.lerp(u * u, 1 - self.b2)
        b2_t = torch.as_tensor(self.b2**at.t, dtype=torch.float64)
        limit = 2 / (1 - self.b2) - 1
        rho = limit - 2 * at.t * b2_t / (1 - b2_t)
        r2 = (rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho)
        # torch adds eps before the bias correction, the paper has none
        ratio = (r2.clamp(min=0) * (1 - b2_t)).sqrt() / (v.sqrt() + self.eps)
        m_hat = m / (1 - self.b1**at.t)
        return torch.where(rho > self.threshold, m_hat * ratio, m_hat), {"m": m, "v": v}


@method(
    label="RAdam",
    title="On the Variance of the Adaptive Learning Rate and Beyond",
    arxiv="1908.03265",
    year=2019,
    section="algorithm 2",
    notes="The paper switches at rho > 4; its authors' code, torch and everyone else at rho > 5, one step of momentum more. "
    "variant='paper' takes 4.",
    space={"lr": log(3e-4, 3e-1), "b1": one_minus_log(0.5, 0.99), "weight_decay": log(1e-6, 1e-2)},
    torch_state={"step": "step", "exp_avg": "radam.m", "exp_avg_sq": "radam.v"},
)
def radam(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    decoupled_weight_decay: bool = False,
    variant: Literal["authors", "paper"] = "authors",
):
    scale = ScaleByRadam(b1, b2, eps, {"authors": 5.0, "paper": 4.0}[variant])
    if decoupled_weight_decay:
        return chain(scale, decay(weight_decay), descend(lr))
    return chain(add_l2(weight_decay), scale, descend(lr))


@radam.claim(
    "while the variance is intractable it is SGD with momentum: the step is lr times the corrected mean", where="alg. 2"
)
def momentum_at_first(lab):
    grads = [lab.gradient(seed=t) for t in range(5)]
    path = lab.follow(radam, grads, lr=0.1, b1=0.9)
    mean = sum(0.1 * 0.9 ** (4 - i) * g for i, g in enumerate(grads)) / (1 - 0.9**5)
    yield lab.close(path[5] - path[4], -0.1 * mean, rtol=1e-9)
