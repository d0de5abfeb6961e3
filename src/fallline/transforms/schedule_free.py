"""Schedule-free averaging around any step: train at a point between the fast iterate and the average."""

from __future__ import annotations

import torch
from torch import Tensor

from fallline.core.hyper import Domain
from fallline.core.transform import Transform, scalars, transform
from fallline.core.types import At, Hyper, State
from fallline.transforms.average import clone

__all__ = ["ScheduleFree", "schedule_free"]


@transform
class ScheduleFree(Transform):
    """z' = z - u,  x' = (1 - c) x + c z',  y' = (1 - b1) z' + b1 x', the parameter is y;  c = lr^2 / (sum of all lr^2)

    x is not stored: y = (1 - b1) z + b1 x gives y - y' = c (y - z) + (1 - b1 (1 - c)) u.
    """

    lr: Hyper
    b1: Hyper = 0.9
    domains = {"b1": Domain("(0, 1)")}
    slots = {"z": clone, **scalars("weights")}

    def update(self, u: Tensor, at: At, *, z: Tensor, weights: Tensor) -> tuple[Tensor, State]:
        weights = weights + self.lr**2
        c = torch.where(weights > 0, self.lr**2 / weights, torch.zeros_like(weights))
        return c * (at.p - z) + (1 - self.b1 * (1 - c)) * u, {"z": z - u, "weights": weights}

    def average(self, p: Tensor, *, z: Tensor, weights: Tensor) -> Tensor:
        return (p - (1 - self.b1) * z) / self.b1


def schedule_free(lr: Hyper, b1: Hyper = 0.9) -> ScheduleFree:
    r"""The last link, after ``descend(lr)``: what comes in moves :math:`z`, gradients are taken at :math:`y = (1 - b_1) z + b_1 x`,
    and :math:`x`, the average of all z, is the result (Defazio et al., arXiv:2405.15682, eq. 2 to 4, and 22 for c)."""
    return ScheduleFree(lr, b1)
