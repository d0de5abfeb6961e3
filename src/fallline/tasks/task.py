"""A task: a model, its data, a loss, and the metric and target by which methods are compared."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from fallline.core.errors import FalllineError
from fallline.core.space import Range
from fallline.tasks.datasets import Batch, Dataset

__all__ = ["Metric", "Source", "Task"]


@dataclass(frozen=True)
class Metric:
    """A quality measured on validation data: ``fn(model, batch)`` returns its **mean** over the examples of the batch.

    ``minimize=True`` says that lower is better. ``unit`` is printed after the number: ``"nats"``, ``"%"``.
    """

    name: str
    fn: Callable[[nn.Module, Batch], Tensor]
    minimize: bool = True
    unit: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            _refuse("Metric", "name", self.name, "a short text", 'name="validation error"')
        if not callable(self.fn):
            _refuse("Metric", "fn", self.fn, "a function of (model, batch)", "fn=lambda model, batch: ...")
        if not isinstance(self.minimize, bool):
            _refuse("Metric", "minimize", self.minimize, "True (lower is better) or False", "minimize=True")

    def __str__(self) -> str:
        return f"{self.name} [{self.unit}]" if self.unit else self.name


@dataclass(frozen=True)
class Source:
    """Where a task's data came from. ``sha256`` is that of the decoded arrays, so it names the numbers, not a file."""

    name: str
    licence: str
    origin: str
    sha256: str
    synthetic: bool = False


@dataclass(frozen=True, eq=False)
class Task:
    """Everything a study needs to train and judge a model.

    ``model`` makes a new, freshly initialised module; the caller seeds torch's global generator before. ``loss(model,
    batch)`` is the mean loss of a batch. ``target`` is a value of the metric worth reaching.

    ``steps`` is the full budget, and a schedule's horizon is always the number of steps actually trained: a study at
    30 % of the budget trains ``0.3 * steps`` steps with its learning rate decayed to zero at their end. The target
    belongs to the full budget, so a shorter study may well miss it. The metric is taken at ``num_evals`` evenly spaced
    steps, the last one included.

    ``augment(batch, generator)`` changes a training batch, drawing only from ``generator``. ``spaces`` overrides search
    ranges for this task: ``{"sgd": {"lr": Range.parse("1e-8..1e-4")}}``.

    Raises FalllineError if a field has the wrong type or value; ``check()`` finds what only running can show.
    """

    name: str
    summary: str
    model: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Batch], Tensor]
    train: Dataset
    valid: Dataset
    metric: Metric
    target: float
    batch_size: int
    steps: int
    num_evals: int = 20
    augment: Callable[[Batch, torch.Generator], Batch] | None = None
    sources: tuple[Source, ...] = ()
    spaces: Mapping[str, Mapping[str, Range]] = field(default_factory=dict)
    target_note: str = ""

    def __post_init__(self) -> None:
        refuse = _refuser(self.name)
        if not isinstance(self.name, str) or not re.fullmatch(r"[\w.-]+", self.name):
            refuse("name", self.name, "a name of letters, digits, '-', '_' and '.'", 'name="my-task"')
        for text in ("summary", "target_note"):
            if not isinstance(getattr(self, text), str):
                refuse(text, getattr(self, text), "a text", f'{text}="..."')
        self._validate_functions(refuse)
        for part in ("train", "valid"):
            self._validate_dataset(part, getattr(self, part), refuse)
        self._validate_numbers(refuse)
        object.__setattr__(self, "sources", tuple(self.sources))
        for source in self.sources:
            if not isinstance(source, Source):
                refuse("sources", source, "a tuple of Source", "sources=(Source(name, licence, origin, sha256),)")
        self._validate_spaces(refuse)

    def _validate_functions(self, refuse: Callable[..., NoReturn]) -> None:
        if isinstance(self.model, nn.Module):
            refuse("model", self.model, "a function that makes a new module for every run", "model=lambda: MyNet()")
        if not callable(self.model):
            refuse("model", self.model, "a function without arguments that returns a module", "model=lambda: MyNet()")
        call = "lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])"
        if isinstance(self.loss, nn.Module) or not callable(self.loss):
            refuse("loss", self.loss, "a function of (model, batch)", f"loss={call}")
        if not isinstance(self.metric, Metric):
            refuse("metric", self.metric, "a Metric", f'metric=Metric("validation loss", {call})')
        if self.augment is not None and not callable(self.augment):
            refuse("augment", self.augment, "a function of (batch, generator), or None", "augment=None")

    @staticmethod
    def _validate_dataset(part: str, data: Any, refuse: Callable[..., NoReturn]) -> None:
        hint = f"{part}=Tensors(inputs, labels)"
        if isinstance(data, DataLoader | IterableDataset):
            refuse(
                part, data, "a dataset with a length: the study makes the batches itself", f"{hint} or loader.dataset"
            )
        if not hasattr(data, "__len__") or not (hasattr(data, "batch") or hasattr(data, "__getitem__")):
            refuse(part, data, "a dataset with __len__ and either batch(indices) or __getitem__", hint)
        if isinstance(data, dict) or (isinstance(data, tuple) and any(isinstance(x, Tensor) for x in data)):
            refuse(part, data, "a dataset of examples, not a collection of tensors", hint)
        if len(data) == 0:
            refuse(part, data, "at least one example", "a dataset that is not empty")

    def _validate_numbers(self, refuse: Callable[..., NoReturn]) -> None:
        if not isinstance(self.target, Real) or isinstance(self.target, bool) or not math.isfinite(self.target):
            refuse("target", self.target, "a finite value of the metric", "target=0.05")
        for name in ("batch_size", "steps", "num_evals"):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                refuse(name, value, "a whole number, at least 1", f"{name}=20")
        if self.batch_size > len(self.train):
            refuse("batch_size", self.batch_size, f"at most {len(self.train)}, the training examples", "a smaller one")
        if self.num_evals > self.steps:
            refuse("num_evals", self.num_evals, f"at most steps={self.steps}", "fewer evaluations or more steps")

    def _validate_spaces(self, refuse: Callable[..., NoReturn]) -> None:
        hint = 'spaces={"sgd": {"lr": Range.parse("1e-4..1e-1")}}'
        if not isinstance(self.spaces, Mapping):
            refuse("spaces", self.spaces, "method -> hyperparameter -> Range", hint)
        for method, space in self.spaces.items():
            if not isinstance(space, Mapping):
                refuse(f"spaces[{method!r}]", space, "hyperparameter -> Range", hint)
            for name, value in space.items():
                if not isinstance(value, Range):
                    refuse(f"spaces[{method!r}][{name!r}]", value, "a Range", hint)

    def check(self) -> None:
        """Try the task on one batch: model, loss, gradients, augmentation and metric.

        Leaves torch's global random state as it was. Raises FalllineError if the loss or metric is no finite scalar, if
        no gradient arrives, if ``model()`` gives the same module twice, or if a function of the task raises.
        """
        from fallline.tasks.check import check  # here, because it needs Task

        check(self)


def _refuser(task: object) -> Callable[..., NoReturn]:
    def refuse(name: str, value: object, expected: str, example: str) -> NoReturn:
        _refuse(f"Task {task!r}", name, value, expected, example)

    return refuse


def _refuse(owner: str, name: str, value: object, expected: str, example: str) -> NoReturn:
    seen = repr(value)
    seen = seen if len(seen) <= 60 and "\n" not in seen else f"an object of type {type(value).__name__}"
    if not isinstance(value, str | int | float | None) and not seen.startswith("an object"):
        seen += f" (type {type(value).__name__})"
    raise FalllineError(f"{owner}: {name} is {seen}. Expected {expected}. Write for example {example}.")
