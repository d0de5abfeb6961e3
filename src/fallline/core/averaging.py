"""Evaluation at the average: while a chain trains at one point, its averaging steps know a better one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from fallline.core.errors import InvalidTypeError, InvalidValueError
from fallline.core.optimizer import Optimizer
from fallline.core.transform import Transform, named_steps

__all__ = ["averaged"]


@contextmanager
def averaged(
    optimizer: Optimizer, model: nn.Module | None = None, batches: Iterable[Any] | None = None
) -> Iterator[None]:
    """Within the block every parameter holds what the last averaging step of its chain averages; after it, its own value.

    Chains without such a step keep their parameters. Nothing is trained inside: a step there is an error when the block
    ends. Batch normalisation has the statistics of the training point: with ``model`` and ``batches`` (of inputs, or of tuples
    that begin with inputs) those of the average are taken at the start of the block, by ``torch.optim.swa_utils.update_bn``, and
    are gone after it (Izmailov et al., arXiv:1803.05407, algorithm 1).

    Raises:
        TypeError, ValueError: for what is not an optimizer, or averages nothing; for a model without batches, batches without a
            model, and a model without batch normalisation.

    Example:
        >>> import torch, fallline
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = fallline.Optimizer(model, fallline.methods.schedule_free_adamw(lr=0.01))
        >>> model(torch.ones(2, 3)).square().mean().backward()
        >>> optimizer.step()
        >>> with fallline.averaged(optimizer):
        ...     loss = model(torch.ones(2, 3)).square().mean()
    """
    if not isinstance(optimizer, Optimizer):
        raise InvalidTypeError(
            f"averaged() got a {type(optimizer).__name__}. Expected a fallline optimizer. Pass the one that you call step() on."
        )
    found = [(p, value) for i in range(len(optimizer.param_groups)) for p, value in _averages(optimizer, i)]
    if not found:
        names = ", ".join(chain.name for chain in optimizer.chains)
        raise InvalidValueError(
            f"averaged() found nothing that averages in {names}. Expected a chain with an averaging step. Append one, as in "
            f"chain(sgd(lr=0.1), average()), or leave averaged() out."
        )
    statistics = _statistics(model, batches)
    before = [(p, p.detach().clone()) for p, _ in found]
    steps = [group["step"] for group in optimizer.param_groups]
    with torch.no_grad():
        for p, value in found:
            p.copy_(value)
    try:
        with statistics:
            yield
    finally:
        with torch.no_grad():
            for p, value in before:
                p.copy_(value)
    if steps != [group["step"] for group in optimizer.param_groups]:
        raise RuntimeError(
            "optimizer.step() was called inside averaged(), and the parameters have gone back to where they were before it. "
            "Expected evaluation only. Step outside of the block."
        )


def _statistics(model: nn.Module | None, batches: Iterable[Any] | None) -> Any:
    """A context in which batch normalisation has the statistics of the parameters as they are when it is entered."""
    if model is None and batches is None:
        return nullcontext()
    if model is None or batches is None:
        have, lack = ("batches", "model") if model is None else ("a model", "batches")
        raise InvalidValueError(
            f"averaged() got {have} and no {lack}. Statistics of batch normalisation need both. Write "
            f"averaged(optimizer, model, batches), or leave both out."
        )
    layers = [
        m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None
    ]
    if not layers:
        raise InvalidValueError(
            f"averaged() got a {type(model).__name__} without batch normalisation that keeps statistics. Expected one with it. "
            f"Write averaged(optimizer)."
        )
    return _updated_statistics(model, layers, batches)


@contextmanager
def _updated_statistics(model: nn.Module, layers: list[Any], batches: Iterable[Any]) -> Iterator[None]:
    from torch.optim.swa_utils import update_bn

    before = [(b, b.clone()) for layer in layers for b in layer.buffers(recurse=False)]
    try:
        update_bn(batches, model)
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


def _averages(optimizer: Optimizer, index: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Parameters of a group and what their chain's last averaging step says of them."""
    group = optimizer.param_groups[index]
    named = [
        (k, s) for k, s in named_steps(optimizer.current_chain(index).steps) if type(s).average is not Transform.average
    ]
    if not named:
        return
    key, step = named[-1]
    for p in group["params"]:
        if optimizer.state.get(p):
            here, slots = optimizer.decoded(p, key, step)
            yield p, step.average(here, **slots)
