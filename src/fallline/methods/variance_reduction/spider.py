r"""SPIDER: steps of constant length along SARAH's recursive estimate of the gradient.

.. math:: v_t = \nabla f_t(p_t) - \nabla f_t(p_{t-1}) + v_{t-1}, \qquad p_{t+1} = p_t - \mathrm{lr}\, \frac{v_t}{\|v_t\|^\beta}

Each ``every`` steps :math:`v_t = \nabla F(p_t)` instead; :math:`\beta` is ``exponent``, the norm that over all tensors. Two gradients a
step, and that of all data now and then: ``optimizer.step(closure, full=full)``.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import linear, log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.transforms import descend, normalise, recursive_gradient


@method(
    label="SPIDER",
    title="SPIDER: Near-Optimal Non-Convex Optimization via Stochastic Path Integrated Differential Estimator",
    arxiv="1807.01695",
    year=2018,
    section="algorithm 1",
    notes="The step of constant length, with the gradient of all data at restarts. Chen et al. (arXiv:2303.02854, algorithm 2) analyse it "
    "under generalised smoothness; the exponent is that of their deterministic method.",
    space={"lr": log(1e-3, 1.0), "exponent": linear(0.0, 1.0)},
)
def spider(lr: Hyper = 1e-2, exponent: Hyper = 1.0, every: int = 100):
    return chain(recursive_gradient(every), normalise(exponent), descend(lr))


@spider.claim("every step has length lr", where="section 3.1")
def steps_of_one_length(lab):
    path = lab.follow(spider, [lab.gradient(seed=t) for t in range(12)], lr=0.01, every=5)
    for a, b in zip(path, path[1:], strict=False):
        yield lab.close((b - a).norm(), 0.01)


@spider.claim("it ends within a few lr of the solution, where normalised GD ends far from it", where="section 3")
def ends_near(lab):
    ours = float(lab.on_batches(spider, steps=300, lr=0.02, every=16))
    yield lab.less(ours, 0.1)
    yield lab.less(2 * ours, float(lab.on_batches(lab.method("normalised_gd"), steps=300, lr=0.02)))
