r"""Heavy ball: gradient descent that keeps a share of its last displacement.

.. math:: p_{t+1} = p_t - \mathrm{lr}_t\, g_t + \beta\,(p_t - p_{t-1})
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.transforms import add_l2, descend
from fallline.transforms import momentum as with_momentum


@method(
    label="HeavyBall",
    title="Some methods of speeding up the convergence of iteration methods",
    doi="10.1016/0041-5553(64)90137-5",
    reference="Polyak, USSR Computational Mathematics and Mathematical Physics 4(5), 1964",
    year=1964,
    section="section 3, the two-step method",
    notes="lr multiplies the gradient that enters the buffer, so the buffer is the last displacement whatever lr does. In sgd it "
    "multiplies the buffer. They are one method while lr is constant.",
    space={"lr": log(1e-3, 3.0), "momentum": one_minus_log(0.5, 0.99), "weight_decay": log(1e-6, 1e-2)},
)
def heavy_ball(lr: Hyper = 1e-2, momentum: Hyper = 0.9, weight_decay: Hyper = 0.0):
    return chain(add_l2(weight_decay), descend(lr), with_momentum(momentum))


@heavy_ball.claim(
    "on a quadratic with curvatures in [m, L] the best lr and momentum give the rate (sqrt L - sqrt m) / (sqrt L + sqrt m)",
    where="the rate on quadratics",
)
def accelerated_rate(lab):
    m, L = float(lab.curvature().min()), float(lab.curvature().max())
    q = (L**0.5 - m**0.5) / (L**0.5 + m**0.5)
    best = {"lr": 4 / (L**0.5 + m**0.5) ** 2, "momentum": q**2}
    loss = lambda x: 0.5 * (lab.curvature() * x * x).sum()  # noqa: E731
    far, near = (float(lab.minimise(heavy_ball, loss, steps=n, **best).norm()) for n in (60, 80))
    yield lab.less((near / far) ** (1 / 20), 1.05 * q)
    yield lab.less(0.9 * q, (near / far) ** (1 / 20))
