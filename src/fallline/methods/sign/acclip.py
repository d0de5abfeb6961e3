r"""ACClip: momentum whose coordinates are clipped at a running mean of how large gradients are there.

.. math::
    m_t = b_1 m_{t-1} + (1 - b_1) g_t, \qquad \tau_t^\alpha = b_2 \tau_{t-1}^\alpha + (1 - b_2) |g_t|^\alpha, \qquad
    u_t = \min\Big(\frac{\tau_t}{|m_t| + \epsilon}, 1\Big)\, m_t
"""

from __future__ import annotations

from fallline.core.hyper import Domain
from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper
from fallline.transforms import decay, descend


@transform
class ScaleByAcclip(Transform):
    b1: Hyper = 0.9
    b2: Hyper = 0.99
    eps: Hyper = 1e-5
    alpha: Hyper = 1.0
    domains = {"alpha": Domain("(0, 2]")}
    slots = zeros("m", "tau")
    nonnegative = frozenset({"tau"})

    def update(self, u, at, *, m, tau):
        m = m.lerp(u, 1 - self.b1)
        tau = tau.lerp(u.abs() ** self.alpha, 1 - self.b2)  # tau to the power alpha
        return (tau ** (1 / self.alpha) / (m.abs() + self.eps)).clamp(max=1.0) * m, {"m": m, "tau": tau}


@method(
    label="ACClip",
    title="Why are Adaptive Methods Good for Attention Models?",
    arxiv="1912.03194",
    year=2019,
    section="algorithm 2",
    notes="The paper writes tau_t^alpha = b2 tau_{t-1} + ..., its text an average of |g|^alpha; taken as the average, which is "
    "the same for alpha = 1, the value it recommends. eps and the order of decay are recalled, not checked.",
    space={"lr": log(1e-3, 1.0), "b1": one_minus_log(0.5, 0.99), "weight_decay": log(1e-4, 1.0)},
)
def acclip(
    lr: Hyper = 1e-2,
    b1: Hyper = 0.9,
    b2: Hyper = 0.99,
    eps: Hyper = 1e-5,
    alpha: Hyper = 1.0,
    weight_decay: Hyper = 0.0,
):
    return chain(ScaleByAcclip(b1, b2, eps, alpha), decay(weight_decay), descend(lr))


@acclip.claim("one wild gradient moves a coordinate by no more than the mean size it leaves behind", where="section 4")
def an_outlier_is_clipped(lab):
    grads = [lab.gradient()] * 200 + [1e4 * lab.gradient()]
    wild = lab.follow(acclip, grads, lr=1.0)
    bound = 0.99 * lab.gradient().abs().max() + 0.01 * 1e4 * lab.gradient().abs().max()
    yield lab.less(float((wild[-1] - wild[-2]).abs().max()), float(bound))
    sgd = lab.follow(lab.method("sgd"), grads, lr=0.1, momentum=0.9)  # the same mean, at b1 = 0.9
    yield lab.less(9 * float((wild[-1] - wild[-2]).abs().max()), float((sgd[-1] - sgd[-2]).abs().max()))
