r"""Truncated model: a stochastic gradient step that stops where the linear model of the loss falls below what the loss can reach.

.. math::
    p \leftarrow \arg\min_q \max\{f_t(p) + \langle g_t, q - p \rangle, f^*\} + \frac{\|q - p\|^2}{2\, \mathrm{lr}}
    = p - \min\Big(\mathrm{lr}, \frac{f_t(p) - f^*}{\|g_t\|^2}\Big) g_t
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.methods.parameter_free.sps import Sps


@method(
    label="TruncatedModel",
    title="Stochastic (Approximate) Proximal Point Methods: Convergence, Optimality, and Adaptivity",
    arxiv="1810.05633",
    year=2018,
    section="truncated models",
    notes="The paper's rates fall like a power of the step: pass a schedule. It is SPS with c = 1. Its prox-linear and proximal-point "
    "models need the inner structure of the loss, which a gradient does not tell.",
    space={"lr": log(1e-2, 10.0)},
)
def truncated_model(lr: Hyper = 1.0, f_star: Hyper = 0.0):
    return chain(Sps(lr, 1.0, f_star))


@truncated_model.claim(
    "a rate a thousand times too large does no harm where all examples can be fitted", where="abstract"
)
def large_rates(lab):
    def misfit(x):
        return sum((lab.gradient(seed=i) * (x - 3)).sum().abs() for i in range(4))  # x = 3 fits all four examples

    def end(method, lr):
        turn = iter(range(400))
        found = lab.minimise(method, lambda x: (lab.gradient(seed=next(turn) % 4) * (x - 3)).sum().abs(), 400, lr=lr)
        return float(misfit(found) / misfit(lab.start()))

    for lr in (0.1, 100.0):
        yield lab.less(end(truncated_model, lr), 1e-6)
    yield lab.less(0.1, end(lab.method("sgd"), 100.0))


@truncated_model.claim("the step minimises the truncated model with its proximal term", where="truncated models")
def minimises(lab):
    g, p = lab.gradient(), lab.start()

    def model(q, lr):
        return max(float(50 + (g * (q - p)).sum()), 0.0) + float((q - p).square().sum()) / (2 * lr)

    for lr in (0.1, 100.0):
        q = lab.minimise(truncated_model, lambda x: (g * (x - p)).sum() + 50, 1, lr=lr)
        around = [model(p + s * (q - p), lr) for s in (0.5, 0.9, 1.1, 2.0)]
        yield lab.less(model(q, lr), min(around))
