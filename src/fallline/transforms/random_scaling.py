"""Random scaling: the update times a number drawn anew at every step, the same for all tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fallline.core.rounding import random_bits, stream_key
from fallline.core.transform import Transform, transform
from fallline.core.types import At, State

__all__ = ["RandomScaling", "random_scaling", "uniform"]


@transform
class RandomScaling(Transform):
    """u <- s_t u with s_t ~ Exp(1)"""

    seed: int = 0

    def update(self, u: Tensor, at: At) -> tuple[Tensor, State]:
        return -uniform(self.seed, at.t, u).log() * u, {}


def uniform(seed: int, t: Any, like: Tensor) -> Tensor:
    """A number in (0, 1), a pure function of the seed and the step: the middle of one of 2^16 equal cells."""
    step = torch.as_tensor(t, device=like.device)
    zero = (0 * step).to(torch.int64)  # made from the step, so that compiled code takes it for a number, not an array
    return (random_bits(zero + stream_key(seed, "random_scaling"), step, zero).to(torch.float64) + 0.5) / 2**16


def random_scaling(seed: int = 0) -> RandomScaling:
    r"""Scale the update by :math:`s_t \sim \mathrm{Exp}(1)`, which has mean 1. Placed last, it makes the mean change of a
    function equal to the mean of its linear model, :math:`E[F(p - s u) - F(p)] = -E[\langle \nabla F(p - s u), u \rangle]`,
    whether or not it is smooth (Zhang & Cutkosky, arXiv:2405.09742, lemma 3.1)."""
    return RandomScaling(seed)
