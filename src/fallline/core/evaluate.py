"""Calling the closure at other points: afterwards parameters, gradients, random numbers and batch statistics are as before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import register_module_forward_pre_hook

__all__ = ["Elsewhere", "RandomState"]


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

    def _go_back(self) -> None:
        for p, x in self._places:
            p.copy_(x)


@contextmanager
def _statistics_kept() -> Iterator[None]:
    """Running statistics of batch and instance normalisation, of modules called in the block, are what they were before it."""
    before: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def keep(module: nn.Module, _: Any) -> None:
        if isinstance(module, _NormBase) and id(module) not in before:
            before[id(module)] = [(b, b.clone()) for b in module.buffers(recurse=False)]

    handle = register_module_forward_pre_hook(keep)
    try:
        yield
    finally:
        handle.remove()
        for buffers in before.values():
            for buffer, value in buffers:
                buffer.copy_(value)
