r"""What SGD with random shuffling follows: the mean iterate after an epoch descends a loss with the mini-batches' gradients in it.

.. math:: \tilde E = E + \frac{h}{4m} \sum_{k=1}^m \|\nabla E_k\|^2 = E + \frac h4 \|\nabla E\|^2 + \frac{h}{4m} \sum_k \|\nabla E_k - \nabla E\|^2
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import TypeAlias

import torch
from torch import Tensor
from torch.func import jacrev

from fallline.core.claims import claim
from fallline.flows.descent import gradient_flow, modified_loss
from fallline.flows.fields import Loss
from fallline.flows.solvers import solve

__all__ = ["BatchLosses", "mean_epoch", "shuffled_loss"]

BatchLosses: TypeAlias = Callable[[Tensor], Tensor]
"""The losses of the m mini-batches of an epoch at a point, shape (d,) to (m,)."""


def shuffled_loss(losses: BatchLosses, lr: float) -> Loss:
    r"""The loss that SGD with random shuffling descends, :math:`E + \frac{h}{4m} \sum_k \|\nabla E_k\|^2`, h = ``lr``
    (Smith et al., arXiv:2101.12176, eq. 1). Smaller batches regularise more: the gradients of single batches are larger."""
    slopes = jacrev(losses)
    return lambda theta: losses(theta).mean() + lr / 4 * slopes(theta).square().sum(-1).mean()


def mean_epoch(losses: BatchLosses, start: Tensor, lr: float) -> Tensor:
    """The mean over all orders of the iterate after one epoch of SGD; there are m! of them, so m is small."""
    slopes = jacrev(losses)
    ends = []
    for order in permutations(range(len(losses(start)))):
        theta = start
        for k in order:
            theta = theta - lr * slopes(theta)[k]
        ends.append(theta)
    return torch.stack(ends).mean(0)


# -- claims -------------------------------------------------------------------------------------------------------------


def small_batches(theta: Tensor) -> Tensor:
    """Four batches of a scalar tanh regression, 3 parameters."""
    x = torch.tensor([-1.5, -0.4, 0.7, 1.8], dtype=theta.dtype)
    y = torch.tensor([0.9, -0.3, 0.2, 1.1], dtype=theta.dtype)
    return (theta[2] * torch.tanh(theta[0] * x + theta[1]) - y).square() / 2


@claim(
    "random shuffling",
    "the mean of SGD over all orders follows the loss with every batch's gradient to third order a step; the full-batch term "
    "alone does not do",
    where="arXiv:2101.12176, eq. 1",
)
def every_batch_counts(lab):
    start = torch.tensor([0.7, -0.3, 0.9], dtype=torch.float64)
    whole = lambda theta: small_batches(theta).mean()  # noqa: E731
    missed = {"batches": [], "whole": []}
    for lr in (0.04, 0.02):
        end = mean_epoch(small_batches, start, lr)
        for name, loss in (("batches", shuffled_loss(small_batches, lr)), ("whole", modified_loss(whole, lr))):
            flow = solve(gradient_flow(loss), start, 4 * lr, 4).end
            missed[name].append(float((end - flow).norm()))
    yield lab.less(2**2.6, missed["batches"][0] / missed["batches"][1])
    yield lab.less(missed["whole"][0] / missed["whole"][1], 2**2.3)
    yield lab.less(5 * missed["batches"][1], missed["whole"][1])
