"""The dry run of a task on one batch: what only running can show, said in three parts."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from fallline.core.errors import FalllineError
from fallline.tasks.datasets import Batch, fetch
from fallline.tasks.task import Task

__all__ = ["check"]


def check(task: Task) -> None:
    """Run ``task`` on one batch; raises FalllineError for whatever would spoil a study."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _model(task)
        batch = _batch(task, "train")
        if task.augment is not None:
            generator = torch.Generator().manual_seed(0)
            batch = _call(task, "augment(batch, generator)", "the changed batch", task.augment, batch, generator)
            if batch is None:
                _fail(task, "augment(batch, generator) returned None", "It must return the changed batch",
                      "End it with 'return batch'")  # fmt: skip
        _gradients(task, model, batch)
        model.eval()
        with torch.no_grad():
            metric = _call(task, "metric.fn(model, batch)", "one number", task.metric.fn, model, _batch(task, "valid"))
        _finite_scalar(task, "metric.fn(model, batch)", metric)


def _model(task: Task) -> nn.Module:
    model, again = (_call(task, "model()", "a new torch.nn.Module", task.model) for _ in range(2))
    if not isinstance(model, nn.Module):
        _fail(task, f"model() returned {_kind(model)}", "It must return a torch.nn.Module", "Return the network itself")
    if model is again:
        _fail(task, "model() returned the same module twice", "Every run needs a new one, initialised afresh",
              "Build the module inside the function: model=lambda: MyNet()")  # fmt: skip
    if not any(p.requires_grad for p in model.parameters()):
        _fail(task, "model() has no parameter with requires_grad", "A study needs something to train",
              "Register the parameters with nn.Parameter or nn.Module attributes")  # fmt: skip
    return model.train()


def _batch(task: Task, part: str) -> Batch:
    dataset = getattr(task, part)
    indices = torch.arange(min(task.batch_size, len(dataset)))
    return _call(task, f"a batch of {part}", "what loss and metric understand", fetch, dataset, indices)


def _gradients(task: Task, model: nn.Module, batch: Batch) -> None:
    loss = _call(task, "loss(model, batch)", "the mean loss, a scalar tensor", task.loss, model, batch)
    if not isinstance(loss, Tensor):
        _fail(task, f"loss(model, batch) returned {_kind(loss)}", "It must return a scalar tensor",
              "Do not call .item() or float() on it")  # fmt: skip
    _finite_scalar(task, "loss(model, batch)", loss)
    if not loss.requires_grad:
        _fail(task, "loss(model, batch) has no gradient", "It must depend on the model's parameters",
              "Remove no_grad() or detach() from the loss")  # fmt: skip
    torch.autograd.backward(loss)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not any(bool(g.count_nonzero()) for g in gradients):
        _fail(task, "no gradient of the loss reaches a parameter of the model", "At least one must be non-zero",
              "Let the loss call the model it is given, without detach()")  # fmt: skip
    if not all(bool(g.isfinite().all()) for g in gradients):
        _fail(task, "the gradient of the loss is not finite on the first batch", "Gradients must be finite at the start",
              "Look for a division by zero, log(0) or sqrt(0) in the loss")  # fmt: skip


def _finite_scalar(task: Task, what: str, value: Any) -> None:
    number = isinstance(value, int | float) or (isinstance(value, Tensor) and value.ndim == 0)
    if not number:
        _fail(task, f"{what} returned {_kind(value)}", "It must return one number, the mean over the batch",
              "Add .mean()")  # fmt: skip
    value = float(torch.as_tensor(value).detach())
    if not math.isfinite(value):
        _fail(task, f"{what} is {value} on the first batch of an untrained model", "It must be finite",
              "Look for NaN in the data, inputs that are not scaled, or log(0)")  # fmt: skip


def _kind(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _call(task: Task, what: str, expected: str, fn: Callable[..., Any], *args: Any) -> Any:
    try:
        return fn(*args)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"
        reason = f"{type(error).__name__}: {error}".rstrip(".")
        _fail(task, f"{what} raised {reason} ({where})", f"It must return {expected}",
              "Call it by hand on one batch to find the line", error)  # fmt: skip


def _fail(task: Task, seen: str, expected: str, fix: str, cause: Exception | None = None) -> NoReturn:
    raise FalllineError(f"Task {task.name!r}: {seen}. {expected}. {fix}.") from cause
