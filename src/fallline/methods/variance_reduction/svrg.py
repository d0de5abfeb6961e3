r"""SVRG: each batch's gradient is corrected by its gradient at a snapshot, where the gradient of all data is known.

.. math:: v_t = \nabla f_t(p_t) - \nabla f_t(\tilde p) + \nabla F(\tilde p), \qquad p \leftarrow p - \mathrm{lr}\, v_t

A new snapshot :math:`\tilde p` is taken each ``every`` steps. Two gradients a step, and that of all data now and then:
``optimizer.step(closure, full=full)``.
"""

from __future__ import annotations

import torch

from fallline.core.gradients import FullGradient, GradientAt
from fallline.core.method import method
from fallline.core.space import log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper
from fallline.transforms import descend
from fallline.transforms.average import clone, whole
from fallline.transforms.recursive import begins, within


@transform
class Svrg(Transform):
    every: int = 100
    slots = {"x": clone, **zeros("mu", "h")}
    gradients = {"mu": FullGradient(begins), "h": GradientAt(lambda step, at, *, x, **_: x, within)}

    def update(self, u, at, *, x, mu, h):
        begun = torch.as_tensor((at.t - 1) % self.every == 0)
        return torch.where(begun, mu, u - h + mu), {"x": torch.where(begun, at.p, x)}


@method(
    label="SVRG",
    title="Accelerating Stochastic Gradient Descent using Predictive Variance Reduction",
    reference="Johnson & Zhang, NeurIPS 2013",
    year=2013,
    section="procedure SVRG, option I",
    notes="``every`` counts steps; the paper takes two passes over the data for convex problems, five for others.",
    space={"lr": log(1e-3, 1.0)},
)
def svrg(lr: Hyper = 0.1, every: int = 100):
    whole("svrg", "every", every)
    return chain(Svrg(every), descend(lr))


@svrg.claim("with a constant rate it converges where SGD stays at its noise floor", where="theorem 1")
def no_noise_floor(lab):
    ours = lab.on_batches(svrg, steps=400, lr=0.3, every=16)
    yield lab.less(1e6 * float(ours), float(lab.on_batches(lab.method("sgd"), steps=400, lr=0.3)))


@svrg.claim("with a snapshot at every step it is gradient descent on all data", where="equation 6")
def snapshot_at_every_step(lab):
    ours = lab.on_batches(svrg, steps=10, lr=0.3, every=1)
    yield lab.equal(ours, lab.on_batches(lab.method("sgd"), steps=10, lr=0.3, whole=True))
