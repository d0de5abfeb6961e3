"""An oracle: the loss of a model as a pure function of named parameters and a batch, and its gradient.

What needs more than the gradient that backward leaves asks an oracle: objectives wrap one in another (``sam(oracle)``), curvature
differentiates it twice, populations run it for many parameters at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_leaves, tree_map

from fallline.core.errors import InvalidTypeError, InvalidValueError
from fallline.core.types import Params

__all__ = ["Batch", "Gradients", "Oracle", "of_loss", "of_module"]

Batch: TypeAlias = Any
"""Tensors of equal first dimension in any nesting, commonly ``(inputs, targets)``."""

Gradients: TypeAlias = dict[str, Tensor]
"""Parameter name -> gradient."""


class Oracle:
    r"""The loss :math:`L(\theta, \text{batch})` of a module, a mean over the examples of the batch, as a function of its parameters.

    Nothing here changes the module: buffers (running statistics of batch normalisation) are copied for every call, unless the call
    says ``statistics=True``, as ``backward`` does. Whether dropout is on and which statistics normalise is the module's own mode.

    An objective is a subclass that overrides ``value_and_grad``, or only ``loss``, and passes ``statistics`` to its first call alone.
    """

    def __init__(self, module: nn.Module, loss_of: Callable[[Any, Batch], Tensor]) -> None:
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

    def outputs(self, params: Params, batch: Batch) -> Tensor:
        """What the module returns for the batch, shape (examples, ...)."""
        seen: list[Any] = []
        handle = self.module.register_forward_hook(lambda module, args, result: seen.append(result))
        try:
            self._call(params, batch, statistics=False)
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

    def losses(self, params: Params, batch: Batch) -> Tensor:
        """The loss of every example, shape (examples,)."""
        return self.criterion(self.outputs(params, batch), batch)

    def value_and_grad(self, params: Params, batch: Batch, *, statistics: bool = False) -> tuple[Tensor, Gradients]:
        """The loss and its gradient at these parameters, both detached; parameters that take no part have a gradient of zero."""
        with torch.enable_grad():
            own = {name: p.detach().requires_grad_() for name, p in params.items()}
            value = self.loss(own, batch, statistics=statistics)
            found = torch.autograd.grad(value, list(own.values()), allow_unused=True)
        zipped = zip(own.items(), found, strict=True)
        return value.detach(), {n: torch.zeros_like(p) if g is None else g for (n, p), g in zipped}

    # -- the module's own parameters ------------------------------------------------------------------------------------

    def backward(self, batch: Batch) -> Tensor:
        """Add the gradient to ``.grad`` of the module's parameters, as ``loss.backward()`` does; returns the loss, detached.

        The module's buffers are updated once. Write ``optimizer.zero_grad(); oracle.backward(batch); optimizer.step()``.
        """
        params = self.params
        value, gradients = self.value_and_grad(params, batch, statistics=True)
        for name, p in params.items():
            p.grad = gradients[name] if p.grad is None else p.grad + gradients[name]
        return value

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
