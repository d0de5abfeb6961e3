r"""SARAH: the full gradient now and then, and in between an estimate that follows it by differences of batch gradients.

.. math:: v_t = \nabla f_t(p_t) - \nabla f_t(p_{t-1}) + v_{t-1}, \qquad p_{t+1} = p_t - \mathrm{lr}\, v_t

Each ``every`` steps :math:`v_t = \nabla F(p_t)` instead. Two gradients a step, and that of all data now and then:
``optimizer.step(closure, full=full)``.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.transforms import descend, recursive_gradient


@method(
    label="SARAH",
    title="SARAH: A Novel Method for Machine Learning Problems Using Stochastic Recursive Gradient",
    arxiv="1703.00102",
    year=2017,
    section="algorithm 1",
    notes="An outer loop goes on from the last iterate, as in the paper's experiments, not from a random one, as in its analysis.",
    space={"lr": log(1e-3, 1.0)},
)
def sarah(lr: Hyper = 0.1, every: int = 100):
    return chain(recursive_gradient(every), descend(lr))


@sarah.claim("on a finite sum it converges with a constant rate, where SGD stays at its noise floor", where="theorem 3")
def no_noise_floor(lab):
    ours = lab.on_batches(sarah, steps=400, lr=0.3, every=16)
    yield lab.less(1e6 * float(ours), float(lab.on_batches(lab.method("sgd"), steps=400, lr=0.3)))


@sarah.claim("with one batch it is gradient descent", where="section 2")
def one_batch(lab):
    ours, plain = (lab.on_batches(m, steps=20, lr=0.3, whole=True) for m in (sarah, lab.method("sgd")))
    yield lab.close(ours, plain)
