r"""AdEMAMix: Adam with a second, far slower mean of the gradients beside its usual one.

.. math::
    m_{1,t} = b_1 m_{1,t-1} + (1 - b_1) g_t, \quad m_{2,t} = b_3 m_{2,t-1} + (1 - b_3) g_t, \quad
    u_t = \frac{m_{1,t} / (1 - b_1^t) + \alpha\, m_{2,t}}{\sqrt{v_t / (1 - b_2^t)} + \epsilon} + \lambda p

The paper warms up both: ``alpha=5 * warmup(T)`` and ``b3=half_life(0.9, 0.9999, T)``.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import linear, log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper
from fallline.transforms import decay, descend


@transform
class ScaleByAdemamix(Transform):
    b1: Hyper = 0.9
    b2: Hyper = 0.999
    b3: Hyper = 0.9999
    alpha: Hyper = 5.0
    eps: Hyper = 1e-8
    slots = zeros("m1", "m2", "v")
    nonnegative = frozenset({"v"})

    def update(self, u, at, *, m1, m2, v):
        m1 = m1.lerp(u, 1 - self.b1)
        m2 = m2.lerp(u, 1 - self.b3)
        v = v.lerp(u * u, 1 - self.b2)
        mixed = m1 / (1 - self.b1**at.t) + self.alpha * m2
        return mixed / ((v / (1 - self.b2**at.t)).sqrt() + self.eps), {"m1": m1, "m2": m2, "v": v}


@method(
    label="AdEMAMix",
    title="The AdEMAMix Optimizer: Better, Faster, Older",
    arxiv="2409.03137",
    year=2024,
    section="algorithm 1",
    notes="The schedulers of alpha and b3 are schedules, not arguments. The paper's b3 interpolates 1 / log b3; the authors' code "
    "interpolates the half-life less one. alpha is the paper's 5; their code has 2. m2 is not corrected for its start at zero.",
    aliases={"betas": ("b1", "b2", "b3")},
    space={"lr": log(1e-4, 1e-1), "alpha": linear(0.0, 10.0), "b3": one_minus_log(0.99, 0.9999)},
    xfail={"movement_dies_out": "the slow mean forgets over ten thousand steps, the second moment over a thousand"},
)
def ademamix(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    b3: Hyper = 0.9999,
    alpha: Hyper = 5.0,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
):
    return chain(ScaleByAdemamix(b1, b2, b3, alpha, eps), decay(weight_decay), descend(lr))


@ademamix.claim("with alpha = 0 it is AdamW", where="section 3")
def without_the_slow_mean(lab):
    grads = [lab.gradient(seed=t) for t in range(10)]
    ours = lab.follow(ademamix, grads, lr=0.1, alpha=0.0, weight_decay=0.2)
    yield lab.equal(ours[-1], lab.follow(lab.method("adamw"), grads, lr=0.1, weight_decay=0.2)[-1])


@ademamix.claim(
    "it remembers old gradients: after a flip of sign it goes on long after Adam has turned", where="section 3"
)
def old_gradients_count(lab):
    grads = [lab.gradient()] * 200 + [-lab.gradient()] * 20
    ours, adam = (lab.follow(m, grads, **k) for m, k in ((ademamix, {"b3": 0.999}), (lab.method("adam"), {})))
    on = -lab.gradient().sign()
    yield lab.less(float(((adam[-1] - adam[-2]) * on).max()), 0.0)
    yield lab.less(0.0, float(((ours[-1] - ours[-2]) * on).min()))
