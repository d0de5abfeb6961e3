"""Calling the closure at other points: afterwards parameters, gradients, random numbers and batch statistics are as before."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import register_module_forward_pre_hook

from fallline.core.storage import compute_dtype

__all__ = ["Elsewhere", "RandomState", "along", "evaluate_parts"]


class RandomState:
    """torch's global random state as it was when this was made, on the CPU and on the devices of the given tensors."""

    def __init__(self, params: Iterable[Tensor]) -> None:
        self._cpu = torch.get_rng_state()
        devices = {p.device for p in params} - {torch.device("cpu"), torch.device("meta")}
        self._devices = [(d, torch.get_device_module(d).get_rng_state(d)) for d in devices]

    def restore(self) -> None:
        """Go back to it."""
        torch.set_rng_state(self._cpu)
        for device, state in self._devices:
            torch.get_device_module(device).set_rng_state(state, device)


class Elsewhere:
    """A block in which the closure may be called at other points; every call starts from the random state of the first.

    Gradients are copied before and put back after, because buffers of DistributedDataParallel are written by every backward.
    """

    def __init__(self, params: Sequence[Tensor], start: RandomState) -> None:
        self._params, self._start = list(params), start
        self._exits = ExitStack()

    def __enter__(self) -> Elsewhere:
        self._places = [(p, p.detach().clone()) for p in self._params]
        self._gradients = [(p, p.grad, None if p.grad is None else p.grad.clone()) for p in self._params]
        self._after = RandomState(self._params)
        self._exits.enter_context(warnings.catch_warnings())
        warnings.filterwarnings(
            "ignore", message="Using `torch.compile"
        )  # that a hook may fire twice, which does no harm
        self._exits.enter_context(_statistics_kept())
        return self

    def __exit__(self, *_: Any) -> None:
        self._exits.close()
        self._go_back()
        self._after.restore()
        for p, g, values in self._gradients:
            p.grad = g
            if g is not None and values is not None and 0 not in g.stride():  # an expanded one is nobody's buffer
                g.copy_(values)

    def call(
        self, closure: Callable[[], Any], points: Iterable[tuple[Tensor, Tensor]]
    ) -> tuple[Any, list[Tensor | None]]:
        """The closure's result with these parameters at these points, and the gradients it leaves on all of them."""
        try:
            for p, x in points:
                p.copy_(x)
            for p in self._params:
                p.grad = None
            self._start.restore()
            with torch.enable_grad():
                result = closure()
        finally:
            self._go_back()
        return result, [p.grad for p in self._params]

    def hessian_times(
        self, closure: Callable[[], Any], points: Sequence[tuple[Tensor, Tensor]]
    ) -> list[tuple[Tensor, Tensor]]:
        """(parameter, its part of H z) for pairs of (parameter, its part of z); H is the Hessian of the closure's loss.

        Exact where the first call of the closure left gradients with a graph, else ``along``.
        """
        graphs = [(p, g) for p, g, _ in self._gradients if g is not None and g.requires_grad]
        own = [p for p, _ in points]
        if graphs:
            z = {id(p): z for p, z in points}
            seen = [(g, z[id(p)].to(g.dtype)) for p, g in graphs if id(p) in z]
            outputs, weights = [g for g, _ in seen], [w for _, w in seen]
            with torch.enable_grad():
                found = torch.autograd.grad(outputs, own, weights, retain_graph=True, allow_unused=True)
        else:

            def gradients(at: Sequence[Tensor]) -> list[Tensor | None]:
                by_parameter = dict(
                    zip(map(id, self._params), self.call(closure, zip(own, at, strict=True))[1], strict=True)
                )
                return [by_parameter[id(p)] for p in own]

            found = tuple(along(gradients, [p.detach().clone() for p in own], [z for _, z in points]))
        return [(p, torch.zeros_like(p) if h is None else h.detach()) for p, h in zip(own, found, strict=True)]

    def _go_back(self) -> None:
        for p, x in self._places:
            p.copy_(x)


def along(
    gradients: Callable[[Sequence[Tensor]], Sequence[Tensor | None]], points: Sequence[Tensor], z: Sequence[Tensor]
) -> list[Tensor]:
    r"""The derivative of gradients along z, (g(x + r z) - g(x - r z)) / 2r, for z with entries of size one.

    r is an eighth of the cube root of the dtype's resolution, 6e-4 in float32 and 8e-7 in float64, where for parameters of about 0.1 the
    error of second order, :math:`O(r^2)`, is as large as what rounding costs, :math:`O(\epsilon / r)`: some 1e-4 of the gradient's scale in
    float32, 1e-10 in float64, a tenth in bfloat16.
    """
    sizes = [torch.finfo(x.dtype).eps ** (1 / 3) / 8 for x in points]

    def moved(sign: float) -> list[Tensor]:
        return [x + sign * r * d for x, d, r in zip(points, z, sizes, strict=True)]

    up, down = [*gradients(moved(1.0))], [*gradients(moved(-1.0))]
    zero = [torch.zeros_like(x) for x in points]
    pairs = [(o if a is None else a, o if b is None else b) for a, b, o in zip(up, down, zero, strict=True)]
    return [(a.to(compute_dtype(a.dtype)) - b) / (2 * r) for (a, b), r in zip(pairs, sizes, strict=True)]


def evaluate_parts(parts: Sequence[Callable[[], Any]], params: Sequence[Tensor]) -> tuple[Any, dict[int, Tensor]]:
    """Call the closures of a batch's parts, leave the mean of their gradients as ``.grad``; the mean of their results and, by
    parameter, the variance between their gradients (Welford 1962: no variance where they are equal)."""
    results: list[Any] = []
    totals: dict[int, Tensor] = {}
    means: dict[int, Tensor] = {}  # of these, equal gradients are a fixed point, which totals / n need not be
    spread: dict[int, Tensor] = {}
    for n, closure in enumerate(parts, 1):
        for p in params:
            p.grad = None
        with torch.enable_grad():
            results.append(closure())
        for p in params:
            if p.grad is None and id(p) not in means:
                continue
            g = torch.zeros_like(p) if p.grad is None else p.grad
            g = g.detach().to(compute_dtype(g.dtype))
            if id(p) not in means:  # no gradient until now
                totals[id(p)], means[id(p)], spread[id(p)] = (torch.zeros_like(g) for _ in range(3))
            off = g - means[id(p)]
            means[id(p)] = means[id(p)] + off / n
            totals[id(p)] = totals[id(p)] + g
            spread[id(p)] = spread[id(p)] + off * (g - means[id(p)])
    for p in params:
        p.grad = (totals[id(p)] / len(parts)).to(p.dtype) if id(p) in totals else None
    whole = [r.detach() for r in results if isinstance(r, Tensor)]
    result = torch.stack(whole).mean() if len(whole) == len(results) else results
    return result, {key: value / len(parts) for key, value in spread.items()}


@contextmanager
def _statistics_kept() -> Iterator[None]:
    """Running statistics of batch and instance normalisation, of modules called in the block, are what they were before it."""
    seen: set[int] = set()
    before: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, _: Any) -> None:
        if id(module) in seen:
            return
        for part in module.modules():  # of a compiled model only the outermost module gets here
            if id(part) not in seen and isinstance(part, _NormBase):
                before.extend((b, b.clone()) for b in part.buffers(recurse=False))
            seen.add(id(part))

    handle = register_module_forward_pre_hook(keep)
    try:
        yield
    finally:
        handle.remove()
        for buffer, value in before:
            buffer.copy_(value)
