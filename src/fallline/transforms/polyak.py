"""Polyak's step size: as far as the linear model of the loss needs to reach the lowest possible value."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["polyak_rate"]


def polyak_rate(gap: Tensor, square: Tensor, cap: Any) -> Tensor:
    r"""``min(cap, max(gap, 0) / square)``; 0 where the direction has no length."""
    rate = (gap.clamp(min=0) / square).clamp(max=cap)
    return torch.where(square > 0, rate, torch.zeros_like(rate))
