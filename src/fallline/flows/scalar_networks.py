r"""Scalar networks: the loss :math:`\frac12 (\prod_i w_i - 1)^2`, where gradient flow can be followed to its end.

Gradient flow conserves :math:`w_i^2 - w_j^2`, which gives the minimum it ends in. Under descent, even one that oscillates, the sharpness of *that* minimum
falls at every step (Kreisler, Shpigel Nacson, Soudry & Carmon, arXiv:2305.13064): "gradient flow solution (GFS) sharpness".
"""

from __future__ import annotations

import math

import torch
from scipy.optimize import brentq
from torch import Tensor

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.flows.descent import gradient_flow
from fallline.flows.fields import gradient, top_eigenpairs
from fallline.flows.solvers import solve_adaptive

__all__ = ["flow_solution", "flow_solution_sharpness", "scalar_loss"]


def scalar_loss(w: Tensor) -> Tensor:
    r""":math:`\frac12 (\prod_i w_i - 1)^2` of the weights of a network with one unit a layer."""
    return (w.prod() - 1).square() / 2


def flow_solution(w: Tensor) -> Tensor:
    r"""Where gradient flow of ``scalar_loss`` from w ends, for weights above zero: :math:`w_i^2 \to w_i^2 + s` with the s that makes the product one."""
    if not bool((w > 0).all()):
        raise InvalidValueError(
            f"flow_solution() got weights {w.tolist()}. Expected all above 0. Flip the signs of pairs: the product stays."
        )
    squares = [x * x for x in w.tolist()]

    def excess(s: float) -> float:
        return sum(math.log(x + s) for x in squares)

    s = brentq(excess, -min(squares) * (1 - 1e-12), 1.0 + 1e-9, xtol=1e-300, rtol=1e-14)
    return (w.square() + s).sqrt()


def flow_solution_sharpness(w: Tensor) -> float:
    r"""The sharpness where gradient flow from w ends: there the Hessian is :math:`v v^T`, :math:`v_i = 1 / w_i`, so :math:`\sum_i 1 / w_i^2`."""
    return float(flow_solution(w).square().reciprocal().sum())


@claim(
    "scalar networks",
    "gradient flow ends where it is said to, and the sharpness there is that of the Hessian",
    where="arXiv:2305.13064",
)
def the_end_of_the_flow(lab):
    w = torch.tensor([2.0, 0.4, 0.7], dtype=torch.float64)
    end = solve_adaptive(gradient_flow(scalar_loss), w, 40.0, rtol=1e-9, atol=1e-12).end
    yield lab.close(flow_solution(w), end, rtol=1e-6)
    yield lab.close(flow_solution_sharpness(w), top_eigenpairs(scalar_loss, flow_solution(w), 1)[0][0], rtol=1e-6)


@claim(
    "scalar networks",
    "the sharpness of the gradient flow's solution falls at every step of descent that oscillates, and ends just below 2 / lr",
    where="arXiv:2305.13064, abstract and theorem on scalar networks",
)
def falls_monotonically(lab):
    lr, w = 0.2, torch.tensor([5.0, 0.5, 0.38], dtype=torch.float64)
    slope, sharpness, losses = gradient(scalar_loss), [], []
    for _ in range(250):
        sharpness.append(flow_solution_sharpness(w))
        losses.append(float(scalar_loss(w)))
        w = w - lr * slope(w)
    rises = max(b - a for a, b in zip(sharpness, sharpness[1:], strict=False))
    yield lab.less(rises, 0.0)
    yield lab.less(2 / lr, sharpness[0])
    yield lab.ratio(sharpness[-1], 2 / lr, equals=1, rtol=0.01)
    yield lab.less(
        0.0, max(b - a for a, b in zip(losses, losses[1:], strict=False))
    )  # the loss does not fall monotonically
