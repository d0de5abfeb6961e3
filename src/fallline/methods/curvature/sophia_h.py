r"""Sophia-H: momentum over a running mean of the Hessian's diagonal, cut to one; the diagonal is estimated every few steps.

.. math::
    m_t = b_1 m_{t-1} + (1 - b_1) g_t, \qquad h_t = b_2 h_{t-1} + (1 - b_2)\, z \odot H z \text{ every } k \text{ steps}, \qquad
    u_t = \mathrm{clip}\Bigl(\frac{m_t}{\max(\gamma h_t, \epsilon)}, 1\Bigr) + \lambda p

with random signs z. ``optimizer.step(closure)``; a closure that calls ``backward(create_graph=True)`` makes :math:`H z` exact, any other costs two
more gradients at the steps that are due.
"""

from __future__ import annotations

import torch

from fallline.core.gradients import HessianDiagonal
from fallline.core.hyper import Domain
from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper
from fallline.transforms import decay, descend
from fallline.transforms.average import whole


@transform
class ScaleBySophia(Transform):
    b1: Hyper = 0.96
    b2: Hyper = 0.99
    eps: Hyper = 1e-12
    gamma: Hyper = 0.01
    every: int = 10
    slots = zeros("m", "h", "d")
    gradients = {"d": HessianDiagonal(lambda step, t: (t - 1) % step.every == 0)}
    domains = {"gamma": Domain("(0, inf)"), "eps": Domain("(0, inf)")}

    def update(self, u, at, *, m, h, d):
        m = m.lerp(u, 1 - self.b1)
        h = torch.where(torch.as_tensor((at.t - 1) % self.every == 0), h.lerp(d, 1 - self.b2), h)
        return (m / (self.gamma * h).clamp(min=self.eps)).clamp(-1, 1), {"m": m, "h": h}


@method(
    label="SophiaH",
    title="Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training",
    arxiv="2305.14342",
    year=2023,
    section="algorithms 1 and 3",
    notes="Sophia with Hutchinson's estimator. Sophia-G, which needs the model's outputs, is second_order.sophia_g.",
    space={"lr": log(1e-4, 1e-1), "gamma": log(1e-3, 1.0), "b1": one_minus_log(0.8, 0.99)},
    xfail={"movement_dies_out": "where curvature is small a step is a sign: the momentum shrinks, but its sign stays"},
)
def sophia_h(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.96,
    b2: Hyper = 0.99,
    eps: Hyper = 1e-12,
    weight_decay: Hyper = 0.0,
    gamma: Hyper = 0.01,
    every: int = 10,
):
    whole("sophia_h", "every", every)
    return chain(ScaleBySophia(b1, b2, eps, gamma, every), decay(weight_decay), descend(lr))


@sophia_h.claim("no coordinate moves by more than lr, and where curvature is negative by a sign", where="section 2.2")
def bounded(lab):
    def loss(x):
        return (-lab.curvature() * x * x).sum() / 2

    start, end = lab.start(), lab.minimise(sophia_h, loss, 1, lr=0.1)
    yield lab.close(end - start, 0.1 * start.sign(), rtol=1e-9)


@sophia_h.claim("where nothing is cut its steps are those of Newton's method with momentum", where="section 2.2")
def newton_inside(lab):
    h = lab.curvature()
    end = lab.minimise(sophia_h, lambda x: (h * x * x).sum() / 2, 1, lr=1.0, b1=0.0, b2=0.0, gamma=10.0)
    yield lab.close(end, 0.9 * lab.start(), rtol=1e-8)
