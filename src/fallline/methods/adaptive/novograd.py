r"""NovoGrad: momentum on gradients that were first divided by a running norm of their tensor.

.. math::
    v_t = b_2 v_{t-1} + (1 - b_2) \|g_t\|^2, \quad v_1 = \|g_1\|^2, \qquad
    m_t = b_1 m_{t-1} + \frac{g_t}{\sqrt{v_t} + \epsilon} + \lambda p, \qquad p \leftarrow p - \mathrm{lr}\, m_t
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, scalars, transform
from fallline.core.types import Hyper, Reach
from fallline.transforms import decay, descend, momentum


@transform
class ScaleByRunningNorm(Transform):
    b2: Hyper = 0.98
    eps: Hyper = 1e-8
    reach = Reach.TENSOR
    slots = scalars("v")
    nonnegative = frozenset({"v"})

    def update(self, u, at, *, v):
        b2 = self.b2 * (1 - 0.0 ** (at.t - 1))  # zero in the first step
        v = b2 * v + (1 - b2) * u.square().sum()
        return u / (v.sqrt() + self.eps), {"v": v}


@method(
    label="NovoGrad",
    title="Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of Deep Networks",
    arxiv="1905.11286",
    year=2019,
    section="algorithm 1",
    notes="A layer is a tensor. The momentum is a sum, not a mean, and the decay enters it, as in the paper.",
    space={"lr": log(1e-3, 1.0), "b1": one_minus_log(0.5, 0.99), "weight_decay": log(1e-5, 1e-1)},
    xfail={"movement_dies_out": "a momentum of 0.95 keeps 0.6 % after a hundred steps"},
)
def novograd(lr: Hyper = 1e-2, b1: Hyper = 0.95, b2: Hyper = 0.98, eps: Hyper = 1e-8, weight_decay: Hyper = 0.0):
    return chain(ScaleByRunningNorm(b2, eps), decay(weight_decay), momentum(b1), descend(lr))


@novograd.claim(
    "half of Adam's state, and steps that do not change when a layer's gradients are rescaled", where="section 3"
)
def half_the_state(lab):
    yield lab.ratio(round(novograd.state_bytes(), 3), lab.method("adam").state_bytes(), equals=0.5)
    small, large = (
        lab.follow(novograd, [lab.gradient(seed=t, scale=s) for t in range(5)], eps=0.0)[-1] for s in (1e-3, 1e3)
    )
    yield lab.close(small, large)
    yield lab.close(lab.one_step(novograd, lr=0.1).norm(), 0.1, rtol=1e-6)
