"""An oracle: the loss of a model as a pure function of named parameters and a batch, and its gradient.

What needs more than the gradient that backward leaves asks an oracle: objectives wrap one in another (``sam(oracle)``), curvature
differentiates it twice, populations run it for many parameters at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves, tree_map

from fallline.core.errors import InvalidTypeError, InvalidValueError
from fallline.core.types import Params

__all__ = ["Batch", "Gradients", "Oracle", "gradient", "of_loss", "of_module"]

Batch: TypeAlias = Any
"""Tensors of equal first dimension in any nesting, commonly ``(inputs, targets)``."""

Gradients: TypeAlias = dict[str, Tensor]
"""Parameter name -> gradient."""


class Oracle:
    r"""The loss :math:`L(\theta, \text{batch})` of a module, a mean over the examples of the batch, as a function of its parameters.

    Nothing here changes the module: buffers (running statistics of batch normalisation) are copied for every call, unless the call
    says ``statistics=True``, as ``backward`` does. Whether dropout is on and which statistics normalise is the module's own mode.

    An objective is a subclass that overrides ``value_and_grad``, or only ``loss``, and passes ``statistics`` to its first call alone.
    ``statistics=True`` says that this is the call of a step: what else an objective remembers between steps moves then, too.

    A module in ``DistributedDataParallel`` is taken out of it: its hooks never run, and ``backward`` averages over the ranks.
    """

    def __init__(self, module: nn.Module, loss_of: Callable[[Any, Batch], Tensor]) -> None:
        self.ranks: Any = None  # the process group over which backward averages
        if isinstance(module, DistributedDataParallel):
            self.ranks, module = module.process_group, module.module
        self.module, self.loss_of = module, loss_of

    @property
    def params(self) -> dict[str, Tensor]:
        """The module's trainable parameters by name: the parameters themselves, not copies."""
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    # -- pure functions of the parameters -------------------------------------------------------------------------------

    def loss(self, params: Params, batch: Batch, *, statistics: bool = False) -> Tensor:
        """The mean loss of the batch, 0-d. ``params`` may name buffers too, which then take the place of the module's."""
        found = self._call(params, batch, statistics)
        return found if found.dim() == 0 else found.mean()

    def outputs(self, params: Params, batch: Batch, *, statistics: bool = False) -> Tensor:
        """What the module returns for the batch, shape (examples, ...)."""
        seen: list[Any] = []
        handle = self.module.register_forward_hook(lambda module, args, result: seen.append(result))
        try:
            self._call(params, batch, statistics)
        finally:
            handle.remove()
        if len(seen) != 1 or not isinstance(seen[0], Tensor):
            raise InvalidValueError(
                f"The loss calls the model {len(seen)} times, or what the model returns is no tensor. Expected one call that "
                f"returns one tensor, from which the loss is computed. Write the loss as criterion(model(inputs), targets)."
            )
        return seen[0]

    def criterion(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The loss of every example as a function of the module's outputs, shape (examples,)."""
        found = self.loss_of(_Answers(outputs, self.module), batch)
        if found.dim() > 0:
            return found.flatten(1).mean(1) if found.dim() > 1 else found

        def one(output: Tensor, example: Batch) -> Tensor:
            alone = tree_map(lambda x: x.unsqueeze(0) if isinstance(x, Tensor) else x, example)
            return self.loss_of(_Answers(output.unsqueeze(0), self.module), alone)

        dims = tree_map(lambda x: 0 if isinstance(x, Tensor) else None, batch)
        return vmap(one, in_dims=(0, dims))(outputs, batch)

    def losses(self, params: Params, batch: Batch, *, statistics: bool = False) -> Tensor:
        """The loss of every example, shape (examples,)."""
        return self.criterion(self.outputs(params, batch, statistics=statistics), batch)

    def value_and_grad(self, params: Params, batch: Batch, *, statistics: bool = False) -> tuple[Tensor, Gradients]:
        """The loss and its gradient at these parameters, both detached; parameters that take no part have a gradient of zero."""
        with torch.enable_grad():
            own = {name: p.detach().requires_grad_() for name, p in params.items()}
            value = self.loss(own, batch, statistics=statistics)
            return value.detach(), gradient(value, own)

    # -- the module's own parameters ------------------------------------------------------------------------------------

    def backward(self, batch: Batch, scaler: torch.amp.GradScaler | None = None) -> Tensor:
        """Add the gradient to ``.grad`` of the module's parameters, as ``loss.backward()`` does; returns the loss, detached.

        The module's buffers are updated once. Write ``optimizer.zero_grad(); oracle.backward(batch); optimizer.step()``.
        With a ``GradScaler`` the losses are multiplied before they are differentiated, and what is left in ``.grad`` is what
        ``scaler.scale(loss).backward()`` leaves: go on with ``scaler.step(optimizer); scaler.update()``.
        """
        params = self.params
        factor = None if scaler is None else scaler.scale(torch.ones((), device=next(iter(params.values())).device))
        with _scaled(factor):
            value, gradients = self.value_and_grad(params, batch, statistics=True)
        gradients = self.mean_over_ranks(gradients)
        for name, p in params.items():
            g = gradients[name].detach() if factor is None else gradients[name].detach() * factor
            p.grad = g if p.grad is None else p.grad + g
        return value

    def mean_over_ranks(self, tensors: Gradients) -> Gradients:
        """Each tensor's mean over the ranks of a ``DistributedDataParallel`` model, by one all-reduce; else the tensors themselves."""
        if self.ranks is None:
            return tensors
        wide = torch.float32 if all(x.dtype != torch.float64 for x in tensors.values()) else torch.float64
        flat = torch.cat([x.detach().flatten().to(wide) for x in tensors.values()])
        dist.all_reduce(flat, group=self.ranks)
        parts = torch.split(flat / dist.get_world_size(self.ranks), [x.numel() for x in tensors.values()])
        return {name: part.view_as(x).to(x.dtype) for part, (name, x) in zip(parts, tensors.items(), strict=True)}

    def closure(self, batch: Batch) -> Callable[[], Tensor]:
        """What ``optimizer.step(closure)`` takes: gradients set to zero, then ``backward``."""

        def closure() -> Tensor:
            for p in self.params.values():
                p.grad = None
            return self.backward(batch)

        return closure

    def num_examples(self, batch: Batch) -> int:
        """The first dimension of the batch's tensors."""
        sizes = [x.shape[0] for x in tree_leaves(batch) if isinstance(x, Tensor) and x.dim() > 0]
        if not sizes:
            raise InvalidValueError(
                "The batch holds no tensor with a first dimension. Expected tensors of (examples, ...). Pass (inputs, targets)."
            )
        return int(sizes[0])

    def _call(self, params: Params, batch: Batch, statistics: bool) -> Tensor:
        own = {} if statistics else dict(self.module.named_buffers())
        buffers = {f"model.{name}": params.get(name, b).clone() for name, b in own.items()}
        swapped = {**{f"model.{name}": p for name, p in params.items()}, **buffers}
        found = functional_call(_Loss(self.module, self.loss_of), swapped, (batch,))
        if not isinstance(found, Tensor):
            raise InvalidTypeError(
                f"The loss of an oracle returned {type(found).__name__}. Expected a tensor: one number, or one for each example. "
                f"Return for example F.cross_entropy(model(inputs), targets)."
            )
        return found


def gradient(value: Tensor, params: Params, *, keep: bool = False) -> Gradients:
    """The derivatives of a number by parameters that it was computed from; zero for those that take no part.

    ``keep`` keeps the graph for another number that was computed with this one.

    In a ``backward`` with a ``GradScaler`` the number is multiplied before, so that half precision keeps small gradients.
    """
    factor = _FACTOR.get()
    scaled = value if factor is None else value * factor
    found = torch.autograd.grad(scaled, list(params.values()), allow_unused=True, retain_graph=keep)
    zipped = zip(params.items(), found, strict=True)
    whole = {n: torch.zeros_like(p) if g is None else g for (n, p), g in zipped}
    return whole if factor is None else {n: g / factor for n, g in whole.items()}


_FACTOR: ContextVar[Tensor | None] = ContextVar("factor", default=None)


@contextmanager
def _scaled(factor: Tensor | None) -> Iterator[None]:
    token = _FACTOR.set(factor)
    try:
        yield
    finally:
        _FACTOR.reset(token)


def of_module(module: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor]) -> Oracle:
    """An oracle for batches ``(inputs, targets)``: ``criterion(module(inputs), targets)``, a mean or one loss for each example.

    oracle = of_module(model, F.cross_entropy)
    """
    return Oracle(module, lambda model, batch: criterion(model(batch[0]), batch[1]))


def of_loss(module: nn.Module, loss: Callable[[Any, Batch], Tensor]) -> Oracle:
    """An oracle for any ``loss(model, batch)``, a mean over the batch or one number for each example; a ``Task`` has such a loss."""
    return Oracle(module, loss)


class _Loss(nn.Module):
    """The loss as a module, so that all that it sees of the model has the swapped parameters."""

    def __init__(self, model: nn.Module, loss_of: Callable[[Any, Batch], Tensor]) -> None:
        super().__init__()
        self.model, self.loss_of = model, loss_of

    def forward(self, batch: Batch) -> Tensor:
        return self.loss_of(self.model, batch)


class _Answers:
    """In place of the module: returns given outputs, whatever it is called with."""

    def __init__(self, outputs: Tensor, module: Any) -> None:
        self._outputs, self._module = outputs, module

    def __call__(self, *_: Any, **__: Any) -> Tensor:
        return self._outputs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def __getitem__(self, key: Any) -> Any:
        return self._module[key]
