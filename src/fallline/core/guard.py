"""The guard: a step with a gradient that is not finite, or whose square is not, changes nothing at all.

Squares, because a gradient of 1e25 is as fatal as infinity to any method with a second moment: the moment overflows, and
the coordinate never moves again. On the CPU the decision is read at once; elsewhere it stays a flag on the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from fallline.core.bundle import Bundle
from fallline.core.errors import InvalidValueError, NotFiniteError, unknown
from fallline.core.sharding import agreed
from fallline.core.storage import compute_dtype
from fallline.core.units import Unit

__all__ = ["PATIENCE", "POLICIES", "Guard", "Policy", "limit"]

Policy = Literal["skip", "raise", "zero"]
POLICIES: tuple[str, ...] = get_args(Policy)

PATIENCE = 100
"""Steps in a row that may be refused, by default."""


class Guard:
    """Looks at the gradients before anything changes, and counts the steps it refused."""

    def __init__(self, policy: Policy = "skip", patience: int = PATIENCE) -> None:
        if policy not in POLICIES:
            raise unknown("nonfinite policy", str(policy), POLICIES)
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise InvalidValueError(
                f"Optimizer got patience={patience!r}. Expected a whole number of skipped steps in a row, at least 1. "
                f"Write for example patience=100."
            )
        self.policy, self.patience = policy, patience
        self._skipped: int | Tensor = 0
        self._in_a_row: int | Tensor = 0
        self._looks = 0
        self._culprit = ""

    @property
    def num_skipped(self) -> int:
        """Steps refused so far."""
        return int(self._skipped)

    def look(self, units: Sequence[Unit | Bundle]) -> bool | Tensor:
        """Whether to take the step: yes, no, or a flag on the device. Policy "zero" cleans the units and says yes."""
        if any(unit.p.device.type != "cpu" for unit in units):
            return self._look_without_reading(units)
        bad = [unit for unit in units if not _is_sound(unit)]
        if self.policy == "zero":
            for unit in bad:
                unit.replace_gradients(_cleaned)
            return True
        if agreed(not bad, units):
            self._in_a_row = 0
            return True
        self._skipped += 1
        self._in_a_row += 1
        self._culprit = _name(bad)
        return False

    def complain(self) -> None:
        """Raise after a refused step where the policy says so, or when patience has run out."""
        if not self._culprit:
            return
        culprit, self._culprit = self._culprit, ""
        if self.policy == "raise" or self._in_a_row >= self.patience:
            row = f"{int(self._in_a_row)} steps in a row had" if self.policy == "skip" else "This step has"
            raise NotFiniteError(
                f"{row} a gradient that is not finite, or whose square is not, in {culprit}; nothing was changed. Expected "
                f"finite gradients. Lower the learning rate, clip gradients, or look for the operation that overflows with "
                f"torch.autograd.set_detect_anomaly(True)."
            )

    def _look_without_reading(self, units: Sequence[Unit | Bundle]) -> bool | Tensor:
        if self.policy == "zero":
            for unit in units:
                unit.replace_gradients(_cleaned)
            return True
        device = units[0].p.device
        flags = [_flag(unit).to(device) for unit in units]
        ok = torch.as_tensor(agreed(torch.stack(flags).all(), units))
        self._skipped = self._skipped + (~ok).to(torch.int64)
        self._in_a_row = (self._in_a_row + (~ok).to(torch.int64)) * ~ok
        self._looks += 1
        # Reading stalls the device, so it is done once in `patience` steps, or where the policy is to raise.
        if (self.policy == "raise" and not ok) or (
            self._looks % self.patience == 0 and self._in_a_row >= self.patience
        ):
            self._culprit = _name([unit for unit, flag in zip(units, flags, strict=True) if not flag])
            return False
        return ok


def _flag(unit: Unit | Bundle) -> Tensor:
    return unit.flag(limit(unit.p.dtype)) if isinstance(unit, Bundle) else _sound(unit.gradients()).all()


def _is_sound(unit: Unit | Bundle) -> bool:
    return unit.sound(limit(unit.p.dtype)) if isinstance(unit, Bundle) else not _offending(unit.gradients())


def _offending(g: Tensor) -> bool:
    if g.dtype in (torch.float32, torch.float64) and g.is_contiguous():
        flat = g.view(-1)
        if math.isfinite(torch.dot(flat, flat)):  # a sum of squares is finite only if every square is
            return False
    return g.numel() > 0 and not bool(_sound(g).all())


def _sound(g: Tensor) -> Tensor:
    """Entry by entry, whether the gradient and its square are finite in compute precision."""
    return g.abs() <= limit(g.dtype)


def limit(dtype: torch.dtype) -> float:
    """The size up to which an entry of a gradient is accepted: its square must be finite in compute precision."""
    root = math.sqrt(torch.finfo(compute_dtype(dtype)).max)
    return min(root, torch.finfo(dtype).max)  # as a float16 the root would be infinite


def _cleaned(g: Tensor) -> Tensor:
    return torch.where(_sound(g), g, 0.0)


def _name(units: Sequence[Unit | Bundle]) -> str:
    """The first offending parameter, as a person would look for it."""
    found = [leaf for unit in units for leaf in unit.each() if _offending(leaf.g)]
    if not found:
        return "a part of a parameter that another rank holds and names"
    first = min(found, key=lambda leaf: leaf.place)
    return (
        f"{first.name!r} (shape {tuple(first.whole.shape)})"
        if first.name
        else f"a parameter of shape {tuple(first.whole.shape)}"
    )
