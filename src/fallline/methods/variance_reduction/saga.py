r"""SAGA: each batch's gradient is corrected by the last one of the same batch and by the mean of all last ones.

.. math:: v_t = g_t - \alpha_i + \bar\alpha, \qquad \bar\alpha \leftarrow \bar\alpha + \frac{g_t - \alpha_i}{n}, \qquad
    \alpha_i \leftarrow g_t, \qquad p \leftarrow p - \mathrm{lr}\, v_t

for batch :math:`i` of :math:`n` = ``num_batches``, a fixed set: ``optimizer.step(batch=i)``. One gradient a step, and one of memory
for every batch.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper
from fallline.transforms import descend
from fallline.transforms.average import whole


@transform
class Saga(Transform):
    num_batches: int = 8
    slots = zeros("last", "mean")
    rows = {"last": lambda step: step.num_batches}

    def update(self, u, at, *, last, mean):
        return u - last + mean, {"last": u, "mean": mean + (u - last) / self.num_batches}


@method(
    label="SAGA",
    title="SAGA: A Fast Incremental Gradient Method With Support for Non-Strongly Convex Composite Objectives",
    arxiv="1407.0202",
    year=2014,
    section="equation 1, without the proximal step",
    notes="The table starts at zero, not at the gradients of the first iterate: unbiased as well, and one pass cheaper.",
    space={"lr": log(1e-3, 1.0)},
)
def saga(lr: Hyper = 0.1, num_batches: int = 8):
    whole("saga", "num_batches", num_batches)
    return chain(Saga(num_batches), descend(lr))


@saga.claim("with a constant rate it converges where SGD stays at its noise floor", where="section 2")
def no_noise_floor(lab):
    ours = lab.on_batches(saga, steps=400, lr=0.25)
    yield lab.less(1e4 * float(ours), float(lab.on_batches(lab.method("sgd"), steps=400, lr=0.25)))


@saga.claim("it keeps one gradient for every batch, besides their mean and the last one", where="section 3")
def memory(lab):
    yield lab.equal(saga.state_bytes(num_batches=8), 4.0 * (8 + 2))
