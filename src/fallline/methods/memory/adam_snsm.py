r"""Subset-Norm Adam with subspace momentum: momentum in the gradient's leading directions, none in the others, one scale a row.

.. math::
    m_t = b_1 m_{t-1} + (1 - b_1)\, G_t Q, \qquad
    u_t = \frac{m_t Q^\top / (1 - b_1^t) + G_t - G_t Q Q^\top}{\sqrt{v_t / (1 - b_2^t)} + \epsilon} + \lambda p

with :math:`v_t` as in Subset-Norm Adam and the basis Q as in GaLore, of ``density`` times the shorter side's dimensions and found anew
every ``gap`` steps. Vectors take AdamW's step.
"""

from __future__ import annotations

import torch

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform
from fallline.core.types import Hyper, Reach
from fallline.transforms import decay, descend
from fallline.transforms.average import whole
from fallline.transforms.shared_moment import norm_subsets
from fallline.transforms.subspace import basis, check_density, is_matrix, like_side, projected, renewed, shorter_side


@transform
class ScaleBySnsm(Transform):
    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    density: float = 0.25
    gap: int = 200
    reach = Reach.MATRIX
    compiles = False
    slots = {
        "m": lambda step, p: projected(p, step.density),
        "v": lambda step, p: torch.zeros_like(norm_subsets(p)),
        "q": lambda step, p: basis(p, step.density),
    }
    nonnegative = frozenset({"v"})

    def update(self, u, at, *, m, v, q):
        v = self.b2 * v + (1 - self.b2) * norm_subsets(u * u)
        root = (v / (1 - self.b2**at.t)).sqrt() + self.eps
        if not is_matrix(u):
            m = m.lerp(u, 1 - self.b1)
            return m / (1 - self.b1**at.t) / root, {"m": m, "v": v}
        g = shorter_side(u)
        new = renewed(q, g, at.turn, self.gap)
        m = m if new is q else m @ (q.mT @ new)
        m = m.lerp(g @ new, 1 - self.b1)
        step = m / (1 - self.b1**at.t) @ new.mT + (g - g @ new @ new.mT)
        return like_side(step, u) / root, {"m": m, "v": v, "q": new}


@method(
    label="AdamSNSM",
    title="Efficient Adaptive Optimization via Subset-Norm and Subspace-Momentum",
    arxiv="2411.07120",
    year=2024,
    section="subset-norm and subspace-momentum, for Adam",
    notes="The paper's subspace may be any; here it is the one of GaLore. What becomes of the momentum when the subspace changes is "
    "open; here the part that lies in the new one is kept. Subsets lie along the shorter side, as in adam_sn.",
    space={"lr": log(1e-3, 3.0), "b1": one_minus_log(0.5, 0.99), "weight_decay": log(1e-4, 1.0)},
)
def adam_snsm(
    lr: Hyper = 1e-2,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    density: float = 0.25,
    gap: int = 200,
):
    check_density("adam_snsm", density)
    whole("adam_snsm", "gap", gap)
    return chain(ScaleBySnsm(b1, b2, eps, density, gap), decay(weight_decay), descend(lr))


@adam_snsm.claim("its state is a small part of Adam's", where="abstract")
def memory(lab):
    yield lab.close(adam_snsm.state_bytes(), 4 * (2 * 0.25 + 1 / 256))
    yield lab.less(adam_snsm.state_bytes(), lab.method("adam").state_bytes() / 2)


@adam_snsm.claim("with all directions in the subspace it is Subset-Norm Adam", where="subspace-momentum")
def whole_space(lab):
    grads = [lab.gradient(seed=t) for t in range(7)]
    ours = lab.follow(adam_snsm, grads, lr=0.1, density=1.0, gap=3)
    yield lab.close(ours[-1], lab.follow(lab.method("adam_sn"), grads, lr=0.1)[-1], rtol=1e-9)


@adam_snsm.claim("across the subspace the step follows the present gradient alone", where="subspace-momentum")
def no_memory_across(lab):
    g = lab.gradient()
    _, _, vh = torch.linalg.svd(g)
    across = vh[2:].mT @ vh[2:]
    path = lab.follow(adam_snsm, [g, 0 * g], lr=0.1, density=0.5, gap=100)
    yield lab.less(float(((path[2] - path[1]) @ across).abs().max()), 1e-12)
    yield lab.less(1e-3, float(((path[2] - path[1]) @ (vh[:2].mT @ vh[:2])).abs().max()))
