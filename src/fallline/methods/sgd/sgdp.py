r"""SGDP: momentum SGD that does not grow the norm of scale-invariant weights.

.. math::
    u_t = \begin{cases} \Pi_p\, m_t & \cos(p, g_t) < \delta / \sqrt{\dim p} \\ m_t & \text{else} \end{cases}, \qquad
    \Pi_p\, m = m - \hat p\,(\hat p \cdot m)

with :math:`m_t` as in SGD; the cosine is taken for each row, then for the whole tensor.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.transforms import descend, project_radial
from fallline.transforms import momentum as with_momentum


@method(
    label="SGDP",
    title="AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights",
    arxiv="2006.08217",
    year=2020,
    section="algorithm 1",
    notes="As in the authors' code weight decay is decoupled, divided by 1 - momentum (the length of time for which SGD keeps a "
    "gradient), and multiplied by wd_ratio where the update is projected; all rows must pass the test together.",
    space={"lr": log(1e-3, 3.0), "momentum": one_minus_log(0.5, 0.99), "weight_decay": log(1e-6, 1e-2)},
)
def sgdp(
    lr: Hyper = 1e-3,
    momentum: Hyper = 0.9,
    weight_decay: Hyper = 0.0,
    delta: Hyper = 0.1,
    wd_ratio: Hyper = 0.1,
    eps: Hyper = 1e-8,
    nesterov: bool = False,
):
    project = project_radial(weight_decay / (1 - momentum), delta, wd_ratio, eps)
    return chain(with_momentum(momentum, nesterov=nesterov), project, descend(lr))


@sgdp.claim("the norm of scale-invariant weights grows no faster than the square of the steps", where="section 3")
def norm_grows_slowly(lab):
    def loss(x):  # invariant to the scale of every row
        return ((x / x.norm(dim=1, keepdim=True)) * lab.gradient()).sum()

    ours, plain = (
        float(lab.minimise(m, loss, steps=30, lr=0.05, momentum=0.9).norm()) for m in (sgdp, lab.method("sgd"))
    )
    yield lab.less(ours, plain)
