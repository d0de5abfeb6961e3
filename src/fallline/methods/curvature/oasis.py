r"""OASIS: the gradient over a running mean of the Hessian's diagonal, by size, kept from zero.

.. math::
    D_t = b_2 D_{t-1} + (1 - b_2)\, z \odot H z, \quad D_1 = z \odot H z, \qquad
    u_t = \frac{g_t}{\max(|D_t|, \alpha)} + \lambda p

with random signs z, as in AdaHessian; but D is averaged before its size is taken, which is exact for a diagonal Hessian and less noisy
for others. ``optimizer.step(closure)``, as there.
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


@transform
class ScaleByOasis(Transform):
    b2: Hyper = 0.99
    alpha: Hyper = 1e-2
    slots = zeros("h", "d")
    gradients = {"d": HessianDiagonal()}
    domains = {"alpha": Domain("(0, inf)")}

    def update(self, u, at, *, h, d):
        h = torch.where(torch.as_tensor(at.t > 1), self.b2 * h + (1 - self.b2) * d, d)
        return u / h.abs().clamp(min=self.alpha), {"h": h}


@method(
    label="OASIS",
    title="Doubly Adaptive Scaled Algorithm for Machine Learning Using Second-Order Information",
    arxiv="2109.05198",
    year=2021,
    section="algorithm 1, fixed learning rate",
    notes="The paper's D_0 is a mean of several estimates, here one. With the adaptive rate it is ``ada_oasis``.",
    space={"lr": log(3e-3, 3.0), "b2": one_minus_log(0.9, 0.999), "alpha": log(1e-3, 1.0)},
    xfail={
        "half_precision_computes_in_float32": "without create_graph H z is a difference of gradients at rounded points"
    },
)
def oasis(lr: Hyper = 0.1, b2: Hyper = 0.99, alpha: Hyper = 1e-2, weight_decay: Hyper = 0.0):
    return chain(ScaleByOasis(b2, alpha), decay(weight_decay), descend(lr))


@oasis.claim("a diagonal Hessian is found exactly: a step is Newton's, from wherever", where="algorithm 1")
def newton_on_diagonal(lab):
    h = lab.curvature()
    end = lab.minimise(oasis, lambda x: (h * x * x).sum() / 2, 1, lr=1.0)
    yield lab.less(float(end.abs().max()), 1e-8)


@oasis.claim("where curvature is negative it still descends, by the size of the curvature", where="algorithm 1")
def leaves_maxima(lab):
    end = lab.minimise(oasis, lambda x: (-lab.curvature() * x * x).sum() / 2, 1, lr=1.0)
    yield lab.close(end, 2 * lab.start(), rtol=1e-8)
