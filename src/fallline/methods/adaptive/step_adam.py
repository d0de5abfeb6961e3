r"""STEP: Adam until its second moment has settled, then steps with momentum that this frozen second moment preconditions.

.. math::
    v_t = b_2 v_{t-1} + (1 - b_2) g_t^2 \text{ while } t \le T_0, \text{ then } v_t = v_{T_0}, \qquad
    u_t = \frac{m_t / (1 - b_1^t)}{\sqrt{v_t / (1 - b_2^{\min(t, T_0)})} + \epsilon} + \lambda p

with :math:`m_t` as in Adam and :math:`T_0` = ``freeze_at``.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper
from fallline.transforms import decay, descend
from fallline.transforms.average import whole


@transform
class ScaleByFrozenAdam(Transform):
    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    freeze_at: int = 1000
    slots = zeros("m", "v")
    nonnegative = frozenset({"v"})

    def update(self, u, at, *, m, v):
        late = at.t > self.freeze_at
        seen = at.t - late * (at.t - self.freeze_at)
        m = m.lerp(u, 1 - self.b1)
        v = v.lerp(u * u, (1 - late * 1.0) * (1 - self.b2))
        return m / (1 - self.b1**at.t) / ((v / (1 - self.b2**seen)).sqrt() + self.eps), {"m": m, "v": v}


@method(
    label="STEP",
    title="STEP: Learning N:M Structured Sparsity Masks from Scratch with Precondition",
    arxiv="2302.01172",
    year=2023,
    section="the two phases",
    notes="The second phase of the paper trains masked weights; masks belong to the model and are not here. The paper's rule that "
    "finds the step of the switch by itself is not here either: freeze_at is a number of steps, which should be well past "
    "1 / (1 - b2) and leave enough of the budget.",
    space={"lr": log(3e-4, 3e-1), "b1": one_minus_log(0.5, 0.99), "weight_decay": log(1e-4, 1.0)},
)
def step_adam(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    freeze_at: int = 1000,
):
    whole("step_adam", "freeze_at", freeze_at)
    return chain(ScaleByFrozenAdam(b1, b2, eps, freeze_at), decay(weight_decay), descend(lr))


@step_adam.claim("the first phase is Adam", where="phase 1")
def first_phase(lab):
    grads = [lab.gradient(seed=t) for t in range(6)]
    yield lab.equal(lab.follow(step_adam, grads, lr=0.1)[-1], lab.follow(lab.method("adam"), grads, lr=0.1)[-1])


@step_adam.claim(
    "in the second phase the step is linear in the gradient: a noisy one no longer enters the scale", where="phase 2"
)
def second_phase(lab):
    early = [lab.gradient(seed=t) for t in range(4)]

    def last(scale):
        path = lab.follow(step_adam, [*early, scale * lab.gradient(seed=9)], lr=0.1, b1=0.0, freeze_at=4)
        return path[-1] - path[-2]

    yield lab.close(last(100.0), 100.0 * last(1.0))
