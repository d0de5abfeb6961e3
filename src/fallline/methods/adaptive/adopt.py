r"""ADOPT: Adam that divides by the second moment before it sees the new gradient, and averages after dividing.

.. math::
    m_t = b_1 m_{t-1} + (1 - b_1)\, \mathrm{clip}\Bigl(\frac{g_t}{\max(\sqrt{v_{t-1}}, \epsilon)}, (t - 1)^{1/4}\Bigr), \qquad
    v_t = b_2 v_{t-1} + (1 - b_2) g_t^2, \qquad u_t = m_t

The first gradient only starts the second moment: :math:`v_1 = g_1^2`.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper
from fallline.transforms import add_l2, decay, descend


@transform
class ScaleByAdopt(Transform):
    b1: Hyper = 0.9
    b2: Hyper = 0.9999
    eps: Hyper = 1e-6
    clipped: bool = True
    slots = zeros("m", "v")
    nonnegative = frozenset({"v"})

    def update(self, u, at, *, m, v):
        ratio = u / v.sqrt().clamp(min=self.eps) * (at.t > 1)
        if self.clipped:
            c = (at.t - 1) ** 0.25
            ratio = ratio.clamp(-c, c)
        m = self.b1 * m + (1 - self.b1) * ratio
        b2 = self.b2 * (1 - 0.0 ** (at.t - 1))  # zero in the first step
        return m, {"m": m, "v": b2 * v + (1 - b2) * (u * u)}


@method(
    label="ADOPT",
    title="ADOPT: Modified Adam Can Converge with Any b2 with the Optimal Rate",
    arxiv="2411.02853",
    year=2024,
    section="algorithm 2",
    notes="The paper counts from t = 0, where the second moment starts; t is one more here. clipped=False is algorithm 1. The "
    "authors' code has an L2 penalty by default and the decoupled decay as an option, and so has this.",
    space={"lr": log(3e-4, 3e-1), "b1": one_minus_log(0.5, 0.99), "b2": one_minus_log(0.9, 0.9999)},
)
def adopt(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.9999,
    eps: Hyper = 1e-6,
    weight_decay: Hyper = 0.0,
    clipped: bool = True,
    decoupled_weight_decay: bool = False,
):
    scale = ScaleByAdopt(b1, b2, eps, clipped)
    if decoupled_weight_decay:
        return chain(scale, decay(weight_decay), descend(lr))
    return chain(add_l2(weight_decay), scale, descend(lr))


@adopt.claim(
    "with gradients 100 one time in ten, else -10, and b2 = 0.5 Adam drifts to the worst point +1, ADOPT to the best -1",
    where="section 5, the toy problem; algorithm 1",
)
def converges_where_adam_does_not(lab):
    def where_it_ends(method, **options):
        gradient = lambda t: 100.0 if t % 10 == 1 else -10.0  # noqa: E731
        return lab.online(method, gradient, steps=200, lr=0.1, b1=0.0, b2=0.5, **options)

    yield lab.less(0.8, where_it_ends(lab.method("adam")))
    yield lab.less(where_it_ends(adopt, clipped=False), -0.8)
