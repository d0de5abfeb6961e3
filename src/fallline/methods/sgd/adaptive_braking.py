r"""Adaptive braking: momentum into which a gradient enters with less weight if it points along the velocity, with more if against it.

.. math::
    \alpha_t = 1 - \rho\, \frac{\langle g_t, m_{t-1} \rangle}{\|g_t\| \|m_{t-1}\|}, \qquad
    m_t = \beta m_{t-1} + \alpha_t g_t, \qquad p \leftarrow p - \mathrm{lr}\, m_t

for each tensor, :math:`\beta` = ``momentum``. It damps the oscillations that late gradients of asynchronous or pipelined training cause.
"""

from __future__ import annotations

import torch

from fallline.core.hyper import Domain
from fallline.core.method import method
from fallline.core.space import linear, log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper, Reach
from fallline.transforms import add_l2, descend


@transform
class Brake(Transform):
    momentum: Hyper = 0.9
    rho: Hyper = 2.0
    domains = {"rho": Domain("[0, inf)")}
    reach = Reach.TENSOR
    slots = zeros("m")

    def update(self, u, at, *, m):
        g, v = u / _size(u), m / _size(m)  # a product of norms would overflow or vanish
        length = g.norm() * v.norm()
        cosine = torch.where(length > 0, (g * v).sum() / length, torch.zeros_like(length))
        m = self.momentum * m + (1 - self.rho * cosine) * u
        return m, {"m": m}


def _size(x):
    largest = x.abs().sum()
    return torch.where(largest > 0, largest, torch.ones_like(largest))


@method(
    label="AdaptiveBraking",
    title="Adaptive Braking for Mitigating Gradient Delay",
    arxiv="2007.01397",
    year=2020,
    section="the update",
    notes="The cosine is taken for each tensor; the paper also takes it for each filter. rho = 2 is recalled, not read.",
    space={"lr": log(1e-3, 3.0), "momentum": one_minus_log(0.5, 0.99), "rho": linear(0.0, 3.0)},
)
def adaptive_braking(lr: Hyper = 0.1, momentum: Hyper = 0.9, rho: Hyper = 2.0, weight_decay: Hyper = 0.0):
    return chain(add_l2(weight_decay), Brake(momentum, rho), descend(lr))


@adaptive_braking.claim("with rho = 0 it is SGD with momentum", where="the update")
def no_brake(lab):
    grads = [lab.gradient(seed=t) for t in range(6)]
    ours = lab.follow(adaptive_braking, grads, lr=0.1, rho=0.0)[-1]
    yield lab.close(ours, lab.follow(lab.method("sgd"), grads, lr=0.1, momentum=0.9)[-1], rtol=1e-12)


@adaptive_braking.claim("it converges under a delay of gradients under which momentum diverges", where="abstract")
def late_gradients(lab):
    def end(method):
        path = [lab.start()] * 5

        def loss(x):  # its gradient is that of the quadratic, five steps ago
            path.append(x.detach().clone())
            return (lab.curvature() * path[-6] * x).sum()

        return float(lab.minimise(method, loss, steps=400, lr=0.05, momentum=0.9).norm() / lab.start().norm())

    yield lab.less(100.0, end(lab.method("sgd")))
    yield lab.less(end(adaptive_braking), 0.1)
