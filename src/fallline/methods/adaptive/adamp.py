r"""AdamP: Adam that does not grow the norm of scale-invariant weights.

.. math::
    u_t = \begin{cases} \Pi_p\, q_t & \cos(p, g_t) < \delta / \sqrt{\dim p} \\ q_t & \text{else} \end{cases}, \qquad
    \Pi_p\, q = q - \hat p\,(\hat p \cdot q)

with :math:`q_t` the step of Adam; the cosine is taken for each row, then for the whole tensor.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.methods.adaptive.adam import scale_by_adam
from fallline.transforms import descend, project_radial


@method(
    label="AdamP",
    title="AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights",
    arxiv="2006.08217",
    year=2020,
    section="algorithm 2",
    notes="As in the authors' code all rows must pass the test together, vectors are never projected, and weight decay is "
    "multiplied by wd_ratio where the update is projected (the paper has the last only in its code).",
    space={"lr": log(3e-4, 3e-1), "b1": one_minus_log(0.5, 0.99), "weight_decay": log(1e-4, 1.0)},
)
def adamp(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    delta: Hyper = 0.1,
    wd_ratio: Hyper = 0.1,
):
    return chain(scale_by_adam(b1, b2, eps), project_radial(weight_decay, delta, wd_ratio, eps), descend(lr))


@adamp.claim("where weights are scale-invariant the update is orthogonal to them", where="algorithm 2")
def orthogonal_to_the_weights(lab):
    p, g = lab.start(), lab.gradient()
    tangent = g - p * (p * g).sum(1, keepdim=True) / (p * p).sum(1, keepdim=True)
    path = lab.follow(adamp, [tangent], lr=0.1)
    yield lab.less(float(((path[1] - p) * p).sum(1).abs().max()), 1e-7)
    adam = lab.follow(lab.method("adam"), [tangent], lr=0.1)
    yield lab.less(float(path[1].norm()), float(adam[1].norm()))
