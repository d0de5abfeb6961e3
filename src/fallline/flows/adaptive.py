r"""RMSProp and Adam without noise: the sign flow that they tend to, their equations with moments, and the flow with Adam's own bias.

Dividing by the root of the squared gradient leaves its sign: :math:`\dot\theta = -g / \sqrt{g^2 + \epsilon}`, RMSProp's and Adam's limit for small
rates and fixed betas.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fallline.core.claims import claim
from fallline.flows.descent import START, small_network
from fallline.flows.fields import Field, Loss, gradient, hvp
from fallline.flows.noise import AdamNoise
from fallline.flows.solvers import solve

__all__ = ["adam_flow", "modified_adam_flow", "sign_flow"]


def sign_flow(loss: Loss, eps: float) -> Field:
    r""":math:`\dot\theta_j = -g_j / \sqrt{g_j^2 + \epsilon}`: the limit of RMSProp and Adam, eps inside the root. Along it
    :math:`\dot E = -\sum_j g_j^2 / \sqrt{g_j^2 + \epsilon} \le 0`, as along any flow that keeps the gradient's signs."""
    slope = gradient(loss)

    def field(theta: Tensor) -> Tensor:
        g = slope(theta)
        return -g / (g.square() + eps).sqrt()

    return field


def adam_flow(loss: Loss, method: AdamNoise) -> Field:
    r"""Adam with moments of memory :math:`\tau_i = h / (1 - b_i)`, on the state :math:`(\theta, m, v)`, shape (3 d,), a step being time h = lr:
    :math:`\dot m = (g - m) / \tau_1`, :math:`\dot v = (g^2 - v) / \tau_2`, :math:`\dot\theta = -m / (\sqrt v + \epsilon)`. Bias corrections are left out:
    start with the moments of a run, or at m = g, v = g^2. b1 = 0 would make m jump: use a small one."""
    slope = gradient(loss)
    rate1, rate2 = ((1 - b) / method.lr for b in (method.b1, method.b2))

    def field(state: Tensor) -> Tensor:
        theta, m, v = state.chunk(3)
        g = slope(theta)
        return torch.cat([-m / (v.clamp(min=0).sqrt() + method.eps), rate1 * (g - m), rate2 * (g.square() - v)])

    return field


def modified_adam_flow(loss: Loss, method: AdamNoise) -> Field:
    r"""Full-batch Adam to second order in h = lr, eps inside the root (Cattaneo, Klusowski & Shigida, arXiv:2309.00079):

    .. math::
        \dot\theta_j = -\frac{g_j + h\, b_j}{\sqrt{g_j^2 + \epsilon}}, \qquad
        b_j = \frac12 \Bigl[ \frac{1 + b_1}{1 - b_1} - \frac{1 + b_2}{1 - b_2} + \frac{1 + b_2}{1 - b_2} \frac{\epsilon}{g_j^2 + \epsilon} \Bigr]
        \partial_j \|g\|_{1, \epsilon}

    with :math:`\|g\|_{1,\epsilon} = \sum_j \sqrt{g_j^2 + \epsilon}`. For :math:`b_2 > b_1` and small eps the bracket is negative: Adam then seeks
    *large* gradients in this norm, where gradient descent avoids them.
    """
    slope, h, eps = gradient(loss), method.lr, method.eps
    one, two = ((1 + b) / (1 - b) for b in (method.b1, method.b2))

    def field(theta: Tensor) -> Tensor:
        g = slope(theta)
        root = (g.square() + eps).sqrt()
        uphill = hvp(loss, theta, g / root)
        bias = (one - two + two * eps / root.square()) * uphill / 2
        return -(g + h * bias) / root

    return field


@claim(
    "Adam's bias",
    "the flow with Adam's bias term follows full-batch Adam with an error of order h^2, without it h",
    where="arXiv:2309.00079",
)
def adam_bias(lab):
    slope, until, b1, b2, eps = gradient(small_network), 0.4, 0.6, 0.8, 0.05

    def adam(lr: float) -> tuple[Tensor, Tensor]:
        theta, m, v, points = START, torch.zeros_like(START), torch.zeros_like(START), [START]
        for t in range(1, round(until / lr) + 1):
            g = slope(theta)
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            theta = theta - lr * m / (1 - b1**t) / (v / (1 - b2**t) + eps).sqrt()
            points.append(theta)
        return points[round(until / 2 / lr)], theta  # past the corrections' transient

    missed: dict[str, list[float]] = {"with": [], "without": []}
    for lr in (0.005, 0.0025):
        middle, end = adam(lr)
        flows = {
            "with": modified_adam_flow(small_network, AdamNoise(lr, b1, b2, eps)),
            "without": sign_flow(small_network, eps),
        }
        for name, flow in flows.items():
            missed[name].append(float((solve(flow, middle, until / 2, 8).end - end).norm()))
    yield lab.ratio(math.log2(missed["with"][0] / missed["with"][1]), 2, equals=1, rtol=0.15)
    yield lab.ratio(math.log2(missed["without"][0] / missed["without"][1]), 1, equals=1, rtol=0.2)
