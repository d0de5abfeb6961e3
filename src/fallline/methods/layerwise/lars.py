r"""LARS: momentum SGD whose rate for each tensor is proportional to the tensor's length over its gradient's.

.. math::
    \eta_t = \eta\, \frac{\|p\|}{\|g_t\| + \lambda \|p\|}, \qquad
    m_t = \beta m_{t-1} + \mathrm{lr}\, \eta_t (g_t + \lambda p), \qquad p \leftarrow p - m_t
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform
from fallline.core.types import Hyper, Reach
from fallline.transforms import descend
from fallline.transforms import momentum as with_momentum
from fallline.transforms.trust import ratio_or_one


@transform
class ScaleByLars(Transform):
    trust_coefficient: Hyper = 1e-3
    weight_decay: Hyper = 0.0
    reach = Reach.TENSOR

    def update(self, u, at):
        length = at.p.norm()
        rate = self.trust_coefficient * ratio_or_one(length, u.norm() + self.weight_decay * length)
        return rate * (u + self.weight_decay * at.p), {}


@method(
    label="LARS",
    title="Large Batch Training of Convolutional Networks",
    arxiv="1708.03888",
    year=2017,
    section="algorithm 1",
    notes="The rate stands inside the momentum buffer and the ratio applies to every tensor, as in the paper; several "
    "implementations move the rate out or skip vectors and undecayed tensors. A zero norm gives the ratio 1.",
    space={"lr": log(1e-1, 1e3), "momentum": one_minus_log(0.5, 0.99), "weight_decay": log(1e-6, 1e-2)},
)
def lars(lr: Hyper = 1.0, momentum: Hyper = 0.9, weight_decay: Hyper = 0.0, trust_coefficient: Hyper = 1e-3):
    return chain(ScaleByLars(trust_coefficient, weight_decay), descend(lr), with_momentum(momentum))


@lars.claim("the step does not depend on the magnitude of the gradient", where="section 4")
def magnitude_does_not_matter(lab):
    for scale in (1e-3, 1e3):
        step = lab.one_step(lars, scale=scale, lr=2.0, trust_coefficient=0.01)
        yield lab.close(step.norm(), 0.02 * lab.start().norm(), rtol=1e-9)
