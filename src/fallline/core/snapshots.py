"""Snapshots: the models at the ends of a schedule's cycles, kept while training and evaluated together after it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fallline.core.errors import InvalidTypeError, InvalidValueError
from fallline.core.optimizer import Optimizer

__all__ = ["Snapshots"]


class Snapshots:
    """Copies of a model, one after every ``every`` steps of its optimizer; the last ``keep`` of them, or all.

    With rates that restart in every cycle, ``lr * cosine_restarts(every, growth=1.0)``, they are a snapshot ensemble (Huang et al.,
    arXiv:1704.00109, section 3), whose prediction is the mean of the members' softmax outputs. Going through the snapshots puts one
    after the other into the model, and what was there before back in at the end. They hold parameters and buffers, so that
    batch normalisation has each member's statistics. ``take()`` keeps a copy now.

    Raises:
        TypeError, ValueError: for what is no fallline optimizer or no model, and for counts below 1.

    Example:
        >>> import torch, fallline
        >>> from fallline.schedules import cosine_restarts
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = fallline.Optimizer(model, fallline.methods.sgd(0.1 * cosine_restarts(10, growth=1.0)))
        >>> snapshots = fallline.Snapshots(optimizer, model, every=10)
        >>> for _ in range(30):
        ...     optimizer.zero_grad()
        ...     model(torch.ones(4, 3)).square().mean().backward()
        ...     optimizer.step()
        >>> predictions = torch.stack([model(torch.ones(4, 3)).softmax(-1) for model in snapshots]).mean(0)
    """

    def __init__(self, optimizer: Optimizer, model: nn.Module, every: int, keep: int | None = None) -> None:
        for value, kind, name in ((optimizer, Optimizer, "fallline optimizer"), (model, nn.Module, "model")):
            if not isinstance(value, kind):
                raise InvalidTypeError(
                    f"Snapshots got a {type(value).__name__}. Expected a {name}. Write Snapshots(optimizer, model, every=100)."
                )
        for name, count in (("every", every), ("keep", keep)):
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
                raise InvalidValueError(
                    f"Snapshots got {name}={count!r}. Expected a whole number, at least 1. Write for example {name}=5."
                )
        self.model, self.every, self.keep = model, every, keep
        self._held: list[dict[str, Tensor]] = []
        self._last = 0
        optimizer.register_step_post_hook(self._after_step)

    def take(self) -> None:
        """Keep a copy of the model as it is."""
        self._held.append({k: v.detach().clone() for k, v in self.model.state_dict().items() if isinstance(v, Tensor)})
        del self._held[: max(0, len(self._held) - self.keep) if self.keep is not None else 0]

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        step = max(group["step"] for group in optimizer.param_groups)
        if step > self._last and step % self.every == 0:  # a step that changed nothing has not counted
            self.take()
        self._last = step

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[nn.Module]:
        before = {k: v.detach().clone() for k, v in self.model.state_dict().items() if isinstance(v, Tensor)}
        try:
            for held in list(self._held):
                self._put(held)
                yield self.model
        finally:
            self._put(before)

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        for name, tensor in self.model.state_dict().items():
            if name in values:
                tensor.copy_(values[name])
