r"""Lion-K: Lion with the gradient of any convex function K in place of the sign.

.. math:: u_t = \nabla K(b_1 m_{t-1} + (1 - b_1) g_t), \qquad m_t = b_2 m_{t-1} + (1 - b_2) g_t

With decay it minimises :math:`f(p) + K^*(\lambda p) / \lambda`, K* being the conjugate of K. For each entry x, or for the whole
tensor in ``"l2"``, with a width e:

- ``"l1"``: :math:`K = |x|`, the sign, which is Lion; it confines p to :math:`|p| \le 1/\lambda`
- ``"l2"``: :math:`K = \|x\|_2`, :math:`x / \|x\|`
- ``"huber"``: quadratic up to e, then linear: :math:`\mathrm{clip}(x / e, -1, 1)`
- ``"truncated"``: :math:`K = \max(|x| - e, 0)`: the sign where :math:`|x| > e`, else zero
- ``"relativistic"``: :math:`K = \sqrt{x^2 + e^2}`: :math:`x / \sqrt{x^2 + e^2}`
"""

from __future__ import annotations

from typing import Literal

from fallline.core.hyper import Domain
from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper
from fallline.transforms import decay, descend, steepest


@transform
class ScaleByLionMomentum(Transform):
    b1: Hyper = 0.9
    b2: Hyper = 0.99
    slots = zeros("m")

    def update(self, u, at, *, m):
        return m.lerp(u, 1 - self.b1), {"m": m.lerp(u, 1 - self.b2)}


@transform
class SoftSign(Transform):
    kind: str
    e: Hyper = 1e-3
    domains = {"e": Domain("(0, inf)")}

    def update(self, u, at):
        if self.kind == "huber":
            return (u / self.e).clamp(-1, 1), {}
        return u.sign() * (u.abs() > self.e) if self.kind == "truncated" else u / (u * u + self.e**2).sqrt(), {}


@method(
    label="LionK",
    title="Lion Secretly Solves Constrained Optimization: As Lyapunov Predicts",
    arxiv="2310.05898",
    year=2023,
    section="equation 3 and table 2",
    notes="The paper steps by +K'(...) of minus the gradient; K is even here, so the signs agree. Its K over groups and "
    "its sorted K are left out. 'huber' is scaled so that the largest step is lr.",
    space={"lr": log(3e-5, 3e-2), "b1": one_minus_log(0.5, 0.99), "weight_decay": log(1e-3, 3.0)},
    xfail={"movement_dies_out": "for K = l1 it is Lion: the momentum shrinks, but its sign stays"},
)
def lion_k(
    lr: Hyper = 1e-4,
    b1: Hyper = 0.9,
    b2: Hyper = 0.99,
    weight_decay: Hyper = 0.0,
    e: Hyper = 1e-3,
    k: Literal["l1", "l2", "huber", "truncated", "relativistic"] = "l1",
):
    gradient = steepest({"l1": "max", "l2": "frobenius"}[k]) if k in ("l1", "l2") else SoftSign(k, e)
    return chain(ScaleByLionMomentum(b1, b2), gradient, decay(weight_decay), descend(lr))


@lion_k.claim(
    "from outside, the distance to the box |p| <= 1 / lambda shrinks by 1 - lr lambda a step", where="section 3.1"
)
def into_the_box(lab):
    path = lab.follow(lion_k, [-lab.start()] * 30, lr=0.01, weight_decay=5.0)
    distance = [(p.abs() - 1 / 5.0).clamp(min=0) for p in path]
    yield lab.less(float((distance[-1] - 0.95**30 * distance[0]).max()), 1e-9)


@lion_k.claim("K = l1 is Lion, and narrow Huber or relativistic K come close to it", where="table 2")
def contains_lion(lab):
    grads = [lab.gradient(seed=t) for t in range(10)]
    lion = lab.follow(lab.method("lion"), grads, lr=0.01)[-1]
    yield lab.equal(lab.follow(lion_k, grads, lr=0.01)[-1], lion)
    for k in ("huber", "relativistic", "truncated"):
        yield lab.close(lab.follow(lion_k, grads, lr=0.01, e=1e-7, k=k)[-1], lion, rtol=1e-5)
