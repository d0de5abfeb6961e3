"""Storage: in which precision state is kept, and how a result is rounded into a half-precision parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fallline.core.transform import Transform, named_steps
from fallline.core.types import State

__all__ = ["Storage", "compute_dtype"]


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Arithmetic is in float32 for half-precision parameters, else in the parameter's own dtype."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


@dataclass(frozen=True)
class Storage:
    """How the optimizer keeps what it keeps. Methods see compute precision only."""

    def create(self, steps: Sequence[Transform], p: Tensor) -> State:
        """Everything kept for one parameter: every slot of every step, named ``step.slot``."""
        like = p.detach().to(compute_dtype(p.dtype))
        return {f"{key}.{s}": init(step, like) for key, step in named_steps(steps) for s, init in step.slots.items()}

    def parts(self, slot: str, arrays: Mapping[str, Tensor]) -> tuple[str, ...]:
        """The stored tensors of a slot."""
        return (slot,)

    def load(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """The parameter in compute precision."""
        p = arrays["p"]
        return p.to(compute_dtype(p.dtype))

    def store(self, arrays: Mapping[str, Tensor], p: Tensor, u: Tensor, numbers: Mapping[str, Any]) -> State:
        """What is written when the parameter moves from ``p`` to ``p - u``."""
        return {"p": (p - u).to(arrays["p"].dtype)}

    def decode(self, slot: str, arrays: Mapping[str, Tensor]) -> Tensor:
        """A slot in compute precision."""
        return arrays[slot]

    def encode(self, slot: str, value: Tensor, arrays: Mapping[str, Tensor]) -> State:
        """What is written when a slot gets a new value."""
        return {slot: value}
