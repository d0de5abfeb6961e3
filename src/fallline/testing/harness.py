"""Small fixed problems that the contracts train on, the comparison of optimizers' states, and the layout they run in."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from fallline.core.execute import FUSE_MODES
from fallline.core.method import Method
from fallline.core.optimizer import Optimizer
from fallline.core.transform import Chain

__all__ = [
    "LAYOUTS",
    "SHAPES",
    "a_loss",
    "apart",
    "batch_of",
    "bent",
    "build",
    "drive",
    "feed",
    "gradients",
    "half_dtypes",
    "in_layout",
    "lr_of",
    "nothing_changes",
    "parameters",
    "same",
    "snapshot",
    "step_on",
    "tuned",
]

SHAPES: tuple[tuple[int, ...], ...] = ((7, 5), (6,), (), (1,), (2, 3, 2))

LAYOUTS: tuple[str, ...] = tuple(mode for mode in FUSE_MODES if mode != "auto")
"""Every way the executor can run a chain; ``eager`` is the reference."""

_OPTIONS = ("maximize", "nonfinite", "patience", "state_format", "rounding", "seed")  # of the optimizer, not the method

_layout: ContextVar[str] = ContextVar("layout", default="eager")


@contextmanager
def in_layout(layout: str) -> Iterator[None]:
    """Within this block ``build`` makes optimizers of the given layout."""
    token = _layout.set(layout)
    try:
        yield
    finally:
        _layout.reset(token)


def half_dtypes() -> tuple[torch.dtype, ...]:
    """bfloat16 and float16; compiled layouts, where every dtype costs a compilation, take bfloat16 for both."""
    return (torch.bfloat16, torch.float16) if _layout.get() == "eager" else (torch.bfloat16,)


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


def feed(optimizer: torch.optim.Optimizer, t: int, flip: float = 1.0) -> list[nn.Parameter]:
    """Put the fixed gradients of step ``t`` on every parameter of the optimizer; returns the parameters."""
    _supply(optimizer)  # copies have lost their hooks
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for p, g in zip(params, gradients(params, t, flip), strict=True):
        p.grad = g
    return params


def a_loss(params: Sequence[Tensor], grads: Sequence[Tensor]) -> Tensor:
    """``|<p, g>| / 2``: on a quadratic with its minimum, zero, at the origin it is the loss, elsewhere it is some loss."""
    total = torch.zeros((), dtype=torch.float64, device=params[0].device)
    for p, g in zip(params, grads, strict=True):
        wide = torch.promote_types(g.dtype, torch.float32)
        g = (g.to_dense() if g.is_sparse else g).detach().to(wide)
        g = torch.where((g * g).isfinite(), g, torch.zeros_like(g))
        total = total + (p.detach().to(wide) * g).sum().to(torch.float64)
    return total.abs() / 2


def _supply(optimizer: torch.optim.Optimizer) -> None:
    """Methods that need a loss, gradients elsewhere or the batch's number get them at every step that is given none."""
    if not isinstance(optimizer, Optimizer) or not any(c.needs for c in optimizer.chains):
        return
    if _with_needs not in optimizer._optimizer_step_pre_hooks.values():
        optimizer.register_step_pre_hook(_with_needs)


def _with_needs(optimizer: Any, args: Any, kwargs: Any) -> Any:
    given = args[1] if args[1:] else kwargs.get("closure")
    having = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if given is None and not having:
        return None
    needs = frozenset().union(*(c.needs for c in optimizer.chains))
    closure, full = closures(having, [p.grad for p in having]) if given is None else (given, given)
    extra = dict(kwargs)
    if "parts" in needs:
        chosen = parts_of(having, [p.grad for p in having]) if given is None else [given]
        return args[:1], {**extra, "closure": None, "parts": kwargs.get("parts") or chosen}
    if "batch" in needs:
        extra.setdefault("batch", batch_of(optimizer.param_groups[0]["step"] + 1))
    if "full" in needs:
        extra.setdefault("full", full)
    if given is None and kwargs.get("loss") is None:
        extra["loss"] = a_loss(having, [p.grad for p in having])
    if given is None and "closure" in needs:
        extra["closure"] = closure
    return args, extra


def batch_of(t: int) -> int:
    """The batch of step t: two batches, in turn."""
    return (t - 1) % 2


def bent(g: Tensor, p: Tensor, x: Tensor) -> Tensor:
    """The gradient at x of a problem that has the gradient g at p: the farther away, the larger; its curvature is g / 8."""
    return g * (1 + (x - p).abs() / 2 + (x - p) / 8)


def closures(params: Sequence[Tensor], grads: Sequence[Any]) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """A closure that leaves ``grads`` where the parameters are now and ``bent`` ones elsewhere, and one over all data, whose
    gradients are twice as large."""
    here = [p.detach().clone() for p in params]
    kept = [g if g.is_sparse else g.detach().clone() for g in grads]

    def leave(scale: float) -> Callable[[], Tensor]:
        def closure() -> Tensor:
            for p, g, x in zip(params, kept, here, strict=True):
                if p.grad is None:  # otherwise it is the first call, and they are there
                    p.grad = bent(scale * g, x, p.detach())
            return a_loss(params, [p.grad for p in params if p.grad is not None])

        return closure

    return leave(1.0), leave(2.0)


def apart(g: Tensor) -> Tensor:
    """How far the gradients of both halves of a batch are from their mean g: more for large entries than for small ones."""
    return torch.where(g.abs() > 1, 3 * g, g)


def parts_of(params: Sequence[Tensor], grads: Sequence[Any]) -> list[Callable[[], Tensor]]:
    """Two closures whose gradients have the mean ``grads``."""
    kept = [g.to_dense() if g.is_sparse else g.detach().clone() for g in grads]

    def part(large: float, small: float) -> Callable[[], Tensor]:
        def closure() -> Tensor:
            for p, g in zip(params, kept, strict=True):
                p.grad = torch.where(g.abs() > 1, large * g, small * g)  # powers of two: exact
            return a_loss(params, kept)

        return closure

    return [part(4.0, 2.0), part(-2.0, 0.0)]


def step_on(optimizer: Optimizer, gradient: Callable[[Tensor], Tensor]) -> None:
    """One step on a problem that is known everywhere by its gradient; all batches are alike."""
    params = [p for group in optimizer.param_groups for p in group["params"]]

    def closure() -> Tensor:
        for p in params:
            p.grad = gradient(p.detach())
        return a_loss(params, [p.grad for p in params])

    optimizer.step(closure)


def drive(optimizer: torch.optim.Optimizer, steps: Iterable[int], flip: float = 1.0) -> None:
    """Take the given steps on the fixed gradients."""
    for t in steps:
        feed(optimizer, t, flip)
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


@contextmanager
def nothing_changes(optimizer: torch.optim.Optimizer, what: str) -> Iterator[None]:
    """Asserts that the block leaves every parameter, state, step count and group entry bitwise as it was."""
    tensors, groups = snapshot(optimizer), copy.deepcopy(optimizer.state_dict()["param_groups"])
    yield
    assert same(tensors, snapshot(optimizer)), f"{what} changed parameters or state"
    now = optimizer.state_dict()["param_groups"]
    assert len(now) == len(groups), f"{what} changed the number of groups"
    for before, after in zip(groups, now, strict=True):
        moved = [k for k in before.keys() | after.keys() if before.get(k) != after.get(k)]
        assert not moved, f"{what} changed the group's {', '.join(sorted(moved))}"


def same(a: Sequence[Tensor], b: Sequence[Tensor], tolerance: float = 0.0) -> bool:
    """Equal shapes, dtypes and values: bitwise, or to a relative tolerance of the largest entry."""
    if len(a) != len(b):
        return False
    for x, y in zip(a, b, strict=True):
        if x.shape != y.shape or x.dtype != y.dtype:
            return False
        if tolerance == 0.0 and not torch.equal(x, y):
            return False
        if tolerance and x.numel():
            scale = float(y.abs().max()) + 0.0
            if not torch.allclose(x, y, rtol=0, atol=tolerance * scale, equal_nan=True):
                return False
    return True


def build(method: Method, params: Any, fuse: str = "", **values: Any) -> Optimizer:
    """An optimizer that runs the tuned method on the given parameters, in the current layout unless ``fuse`` names one.

    Keywords are the optimizer's (``maximize``, ``nonfinite``, ``rounding`` ...) or else the method's.
    """
    options = {name: values.pop(name) for name in _OPTIONS if name in values}
    made = Optimizer(params, tuned(method, **values), fuse=fuse or _layout.get(), **options)  # type: ignore[arg-type]
    _supply(made)
    return made
