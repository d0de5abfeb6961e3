"""The recursive gradient estimator of SARAH and SPIDER: the full gradient now and then, differences of batches in between."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fallline.core.gradients import FullGradient, GradientAt
from fallline.core.transform import Transform, transform, zeros
from fallline.core.types import At, State
from fallline.transforms.average import clone, whole

__all__ = ["RecursiveGradient", "begins", "previous_iterate", "recursive_gradient", "within"]


def begins(step: Any, t: int) -> bool:
    """Whether a pass of ``step.every`` steps begins at step t."""
    return (t - 1) % step.every == 0


def within(step: Any, t: int) -> bool:
    """Whether step t lies inside of such a pass."""
    return not begins(step, t)


def previous_iterate(step: Any, at: At, *, x: Tensor, **_: Tensor) -> Tensor:
    """Where the parameter was one step ago, which the slot ``x`` remembers."""
    return x


@transform
class RecursiveGradient(Transform):
    """v_t = grad F(p_t) every so many steps, else grad f_t(p_t) - grad f_t(p_{t-1}) + v_{t-1}; u <- v_t"""

    every: int = 100
    slots = {"v": zeros("v")["v"], "x": clone, "h": zeros("h")["h"]}
    gradients = {"v": FullGradient(begins), "h": GradientAt(previous_iterate, within)}

    def update(self, u: Tensor, at: At, *, v: Tensor, x: Tensor, h: Tensor) -> tuple[Tensor, State]:
        v = torch.where(torch.as_tensor((at.t - 1) % self.every == 0), v, u - h + v)
        return v, {"v": v, "x": at.p}


def recursive_gradient(every: int = 100) -> RecursiveGradient:
    r"""The estimate :math:`v_t = \nabla f_t(p_t) - \nabla f_t(p_{t-1}) + v_{t-1}`, begun anew each ``every`` steps with the gradient of
    all data (Nguyen et al., arXiv:1703.00102, algorithm 1). It takes two gradients a step, and the full one now and then."""
    whole("recursive_gradient", "every", every)
    return RecursiveGradient(every)
