"""Small fixed problems that the contracts train on, and the comparison of optimizers' states."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fallline.core.method import Method
from fallline.core.optimizer import Optimizer
from fallline.core.transform import Chain

__all__ = ["SHAPES", "build", "drive", "gradients", "lr_of", "parameters", "same", "snapshot", "tuned"]

SHAPES: tuple[tuple[int, ...], ...] = ((7, 5), (6,), (), (1,), (2, 3, 2))


def parameters(
    shapes: Sequence[tuple[int, ...]] = SHAPES, dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[nn.Parameter]:
    """Normal parameters, the same for the same seed; global random state is left alone."""
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)) for s in shapes]


def gradients(params: Iterable[Tensor], t: int, scale: float = 1.0) -> list[Tensor]:
    """Normal gradients, a pure function of the step and the parameter's position."""
    out = []
    for i, p in enumerate(params):
        generator = torch.Generator().manual_seed(7919 * t + i)
        out.append((scale * torch.randn(p.shape, generator=generator, dtype=torch.float64)).to(p.dtype))
    return out


def drive(optimizer: torch.optim.Optimizer, steps: Iterable[int], flip: float = 1.0) -> None:
    """Feed the fixed gradients of the given steps to every parameter of the optimizer."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for t in steps:
        for p, g in zip(params, gradients(params, t, flip), strict=True):
            p.grad = g
        optimizer.step()


def tuned(method: Method, **values: Any) -> Chain:
    """The method at a moderate learning rate (the middle of its search space) and defaults otherwise."""
    if "lr" in method.hypers and "lr" in method.space:
        values.setdefault("lr", method.space["lr"].at(0.6))
    return method(**values)


def lr_of(method: Method) -> float:
    """The learning rate of ``tuned(method)``."""
    lr = tuned(method).hypers["lr"]
    assert isinstance(lr, float)
    return lr


def snapshot(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Copies of all parameters and all state tensors, in a fixed order."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    state = [v for p in params for _, v in sorted(optimizer.state[p].items())]
    return [x.detach().clone() for x in [*params, *state]]


def same(a: Sequence[Tensor], b: Sequence[Tensor], tolerance: float = 0.0) -> bool:
    """Equal shapes, dtypes and values: bitwise, or to a relative tolerance of the largest entry."""
    if len(a) != len(b):
        return False
    for x, y in zip(a, b, strict=True):
        if x.shape != y.shape or x.dtype != y.dtype:
            return False
        if tolerance == 0.0 and not torch.equal(x, y):
            return False
        if x.numel() and not torch.allclose(x, y, rtol=0, atol=tolerance * float(y.abs().max()) + 0.0, equal_nan=True):
            return False
    return True


def build(method: Method, params: Any, fuse: str = "eager", maximize: bool = False, **values: Any) -> Optimizer:
    """An optimizer that runs the tuned method on the given parameters."""
    return Optimizer(params, tuned(method, **values), fuse=fuse, maximize=maximize)  # type: ignore[arg-type]
