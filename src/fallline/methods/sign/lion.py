r"""Lion: step along the sign of a short momentum, remember a longer one.

.. math:: u_t = \mathrm{sign}(b_1 m_{t-1} + (1 - b_1) g_t), \qquad m_t = b_2 m_{t-1} + (1 - b_2) g_t
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper
from fallline.transforms import decay, descend


@transform
class ScaleByLion(Transform):
    b1: Hyper = 0.9
    b2: Hyper = 0.99
    slots = zeros("m")

    def update(self, u, at, *, m):
        return m.lerp(u, 1 - self.b1).sign(), {"m": m.lerp(u, 1 - self.b2)}


@method(
    label="Lion",
    title="Symbolic Discovery of Optimization Algorithms",
    arxiv="2302.06675",
    year=2023,
    section="algorithm 2",
    space={"lr": log(3e-5, 3e-2), "b1": one_minus_log(0.5, 0.99), "weight_decay": log(1e-3, 3.0)},
    xfail={"movement_dies_out": "a sign walk: the momentum shrinks, but its sign stays"},
)
def lion(lr: Hyper = 1e-4, b1: Hyper = 0.9, b2: Hyper = 0.99, weight_decay: Hyper = 0.0):
    return chain(ScaleByLion(b1, b2), decay(weight_decay), descend(lr))


@lion.claim("every coordinate moves by lr, on half of Adam's state", where="section 3.2")
def unit_steps(lab):
    yield lab.equal(lab.one_step(lion, lr=0.01).abs(), 0.01)
    yield lab.ratio(lion.state_bytes(), lab.method("adam").state_bytes(), equals=0.5)
