r"""AdaHessian: Adam with the diagonal of the Hessian, as Hutchinson estimates it, in the gradient's place in the second moment.

.. math::
    d_t = z \odot H z, \qquad m_t = b_1 m_{t-1} + (1 - b_1) g_t, \qquad v_t = b_2 v_{t-1} + (1 - b_2)\, \bar d_t^2, \qquad
    u_t = \frac{\hat m_t}{\hat v_t^{k / 2} + \epsilon} + \lambda p

with random signs z, :math:`k` = ``power``, and :math:`\bar d` averaged over the kernel of a convolution. ``optimizer.step(closure)``; a closure that
calls ``backward(create_graph=True)`` makes :math:`H z` exact, any other costs two more gradients.
"""

from __future__ import annotations

from fallline.core.gradients import HessianDiagonal
from fallline.core.hyper import Domain
from fallline.core.method import method
from fallline.core.space import linear, log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper, Reach
from fallline.transforms import decay, descend


@transform
class ScaleByAdahessian(Transform):
    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-4
    power: Hyper = 1.0
    reach = Reach.MATRIX
    compiles = False
    slots = zeros("m", "v", "d")
    nonnegative = frozenset({"v"})
    gradients = {"d": HessianDiagonal()}
    domains = {"power": Domain("[0, 1]")}

    def update(self, u, at, *, m, v, d):
        m = m.lerp(u, 1 - self.b1)
        kernel = tuple(range(2, d.dim()))
        mean = d.abs().mean(kernel, keepdim=True).expand_as(d) if kernel and d.numel() else d
        v = v.lerp(mean * mean, 1 - self.b2)
        size = (v / (1 - self.b2**at.t)).sqrt() ** self.power
        return m / (1 - self.b1**at.t) / (size + self.eps), {"m": m, "v": v}


@method(
    label="AdaHessian",
    title="ADAHESSIAN: An Adaptive Second Order Optimizer for Machine Learning",
    arxiv="2006.00719",
    year=2020,
    section="algorithm 1",
    notes="Averages over the kernels of convolutions only, as in the authors' code; the paper also has blocks within matrices.",
    space={"lr": log(1e-3, 1.0), "b1": one_minus_log(0.5, 0.99), "power": linear(0.5, 1.0)},
    xfail={
        "half_precision_computes_in_float32": "without create_graph H z is a difference of gradients at rounded points"
    },
)
def adahessian(
    lr: Hyper = 0.1,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-4,
    weight_decay: Hyper = 0.0,
    power: Hyper = 1.0,
):
    return chain(ScaleByAdahessian(b1, b2, eps, power), decay(weight_decay), descend(lr))


@adahessian.claim("a diagonal Hessian is found exactly: the first step is Newton's", where="section 3")
def newton_on_diagonal(lab):
    h = lab.curvature()
    end = lab.minimise(adahessian, lambda x: (h * x * x).sum() / 2, 1, lr=1.0, eps=0.0)
    yield lab.less(float(end.abs().max()), 1e-8)
