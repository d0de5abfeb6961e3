r"""XGrad: AdamW that takes its gradients where its last step, repeated s times, would lead.

.. math:: \hat w_t = w_t - s\, u_t, \qquad w_{t+1} = w_t - u_{t+1}, \quad u_{t+1} \text{ AdamW's step for } \nabla f(\hat w_t)

The parameter is :math:`\hat w`; ``fallline.averaged(optimizer)`` evaluates at w.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import linear, log, one_minus_log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.methods.adaptive.adamw import adamw
from fallline.transforms import predict


@method(
    label="XGrad",
    title="XGrad: Boosting Gradient-Based Optimizers With Weight Prediction",
    arxiv="2305.18240",
    year=2023,
    section="algorithm 1",
    notes="The prediction repeats the last step as it was, with its rate and decay; decay is taken at the prediction. "
    "chain(sgd(...), predict(s)) predicts for any other method.",
    space={"lr": log(3e-4, 3e-1), "b1": one_minus_log(0.5, 0.99), "s": linear(0.0, 3.0)},
)
def xgrad(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    s: Hyper = 1.0,
):
    return chain(adamw(lr, b1, b2, eps, weight_decay), predict(s))


@xgrad.claim("w takes the base method's steps, and s = 0 is the base method", where="algorithm 1")
def contains_its_base(lab):
    grads = [lab.gradient(seed=t) for t in range(12)]
    base = lab.follow(lab.method("adamw"), grads, lr=0.1, weight_decay=0.0)
    yield lab.close(lab.follow(xgrad, grads, lr=0.1, s=0.0)[-1], base[-1], rtol=1e-12)
    yield lab.close(lab.average(xgrad, grads, lr=0.1, s=2.0), base[-1], rtol=1e-12)
    yield lab.close(lab.follow(xgrad, grads, lr=0.1, s=2.0)[-1], base[-1] + 2 * (base[-1] - base[-2]), rtol=1e-12)
