"""Operations that a population does its own way: dropout with each run's own masks, linear layers as one batched product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Operations"]


class Operations(TorchFunctionMode):
    """Inside vmap: dropout takes the given masks, call by call, and linear layers one batched product.

    Without masks dropout changes nothing, and ``seen`` notes what it was asked for: (like the input, the probability). A model by itself,
    outside of vmap, keeps its linear layers (``together=False``).
    """

    def __init__(self, masks: Sequence[Tensor] | None = None, together: bool = True) -> None:
        super().__init__()
        self._together = together and masks is not None
        self.seen: list[tuple[Tensor, float]] = []
        self._masks = None if masks is None else iter(masks)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear and self._together:
            return _linear(*args, **(kwargs or {}))
        if func is F.dropout:
            return self._dropout(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return input
        if self._masks is not None:
            return input * next(self._masks)
        self.seen.append((torch.empty_like(input), p))
        return input


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if input.dim() < 2 or weight.dim() != 2:
        return F.linear(input, weight, bias)
    found: Tensor = _Linear.apply(input, weight, bias)
    return found


class _Linear(torch.autograd.Function):
    """``input @ weight.T + bias``: vmap would take the product and the sum one after the other, and copy both."""

    @staticmethod
    def forward(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(input, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        raise AssertionError("only under vmap")

    @staticmethod
    def vmap(info: Any, in_dims: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, int]:
        x, w, b = (_rows(a, dim, info.batch_size) for a, dim in zip((input, weight, bias), in_dims, strict=True))
        assert x is not None
        assert w is not None
        found: Tensor = _Products.apply(x.flatten(1, -2), w, b)
        return found.view(*x.shape[:-1], -1), 0


class _Products(torch.autograd.Function):
    """(runs, n, in), (runs, out, in) and (runs, out) to (runs, n, out)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, w)
        return torch.bmm(x, w.mT) if b is None else torch.baddbmm(b.unsqueeze(1), x, w.mT)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, w = ctx.saved_tensors
        needs = ctx.needs_input_grad
        dx = torch.bmm(dy, w) if needs[0] else None
        dw = torch.bmm(dy.mT, x) if needs[1] else None
        return dx, dw, dy.sum(1) if needs[2] else None


def _rows(x: Tensor | None, dim: int | None, count: int) -> Tensor | None:
    """With the dimension of runs in front."""
    if x is None:
        return None
    return x.expand(count, *x.shape) if dim is None else x.movedim(dim, 0)
