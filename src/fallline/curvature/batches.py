"""What curvature is taken over: one batch or many, always with the model as it is when it is evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fallline.core.errors import InvalidTypeError, InvalidValueError
from fallline.core.oracle import Batch, Oracle
from fallline.core.types import Params

__all__ = ["Data", "deterministic", "gradient", "own_params", "weighted"]

Data: TypeAlias = Any
"""One batch (a tensor, a tuple, a dict, a list with tensors in it), or an iterable of batches such as a list or a loader."""


def weighted(oracle: Oracle, data: Data) -> list[tuple[float, Batch]]:
    """The batches, each with its share of all examples; a loader is read once, so that every product sees the same examples."""
    one = isinstance(data, Tensor | Mapping | tuple) or (
        isinstance(data, list) and any(isinstance(x, Tensor) for x in data)
    )
    if not one and not isinstance(data, Iterable):
        raise InvalidTypeError(
            f"Curvature got data of type {type(data).__name__}. Expected a batch such as (inputs, targets), or an iterable of "
            f"batches. Pass what the loss of the oracle takes."
        )
    batches = [data] if one else list(data)
    sizes = [oracle.num_examples(batch) for batch in batches]
    if not sum(sizes):
        raise InvalidValueError(
            "Curvature got no examples. Expected at least one batch. Is the loader used up already?"
        )
    return [(size / sum(sizes), batch) for size, batch in zip(sizes, batches, strict=True)]


def own_params(oracle: Oracle, params: Params | None) -> dict[str, Tensor]:
    """The point: copies of the oracle's parameters, or of those given, so that steps taken later do not move it."""
    return {name: p.detach().clone() for name, p in (oracle.params if params is None else params).items()}


@contextmanager
def deterministic(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode (no dropout, frozen statistics), torch's random numbers from a fixed seed, attention by a kernel
    that can be differentiated twice; all of it as before afterwards."""
    modes = {m: m.training for m in module.modules()}
    devices = sorted({p.device.index or 0 for p in module.parameters() if p.device.type == "cuda"})
    module.eval()
    try:
        with torch.random.fork_rng(devices=devices), sdpa_kernel(SDPBackend.MATH):
            torch.default_generator.manual_seed(0)  # torch.manual_seed records a traceback for each absent device
            for i in devices:
                torch.cuda.default_generators[i].manual_seed(0)
            yield
    finally:
        for m, training in modes.items():
            m.training = training


def gradient(oracle: Oracle, data: Data, params: Params | None = None) -> dict[str, Tensor]:
    """The gradient of the mean loss over all data, the model in evaluation mode."""
    point = own_params(oracle, params)
    total = {name: torch.zeros_like(p) for name, p in point.items()}
    with deterministic(oracle.module):
        for weight, batch in weighted(oracle, data):
            for name, g in oracle.value_and_grad(point, batch)[1].items():
                total[name] += weight * g
    return total
