"""A task on another device: the same examples in the same order, the same initial parameters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fallline.tasks.datasets import Batch, Dataset, Tensors, Windows, fetch
from fallline.tasks.task import Task

__all__ = ["on_device"]


def on_device(task: Task, device: torch.device | str) -> Task:
    """The task with its model and batches on ``device``.

    Random numbers are still drawn on the CPU, so that a run begins with the same parameters and sees the same batches; what its
    arithmetic rounds is the device's. A model that creates tensors of its own in the forward pass must create them where its
    input is.
    """
    place = torch.device(device)

    def model() -> nn.Module:
        return task.model().to(place)

    def augment(batch: Batch, generator: torch.Generator) -> Batch:
        assert task.augment is not None
        return _moved(task.augment(_moved(batch, torch.device("cpu")), generator), place)

    return replace(
        task,
        model=model,
        train=_dataset(task.train, place),
        valid=_dataset(task.valid, place),
        augment=None if task.augment is None else augment,
    )


def _moved(batch: Any, device: torch.device) -> Any:
    return tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, batch)


def _dataset(dataset: Dataset, device: torch.device) -> Dataset:
    if isinstance(dataset, Tensors):
        return Tensors(*(t.to(device) for t in dataset.tensors))
    if isinstance(dataset, Windows):
        return Windows(dataset.tokens.to(device), dataset.length, dataset.stride)
    return _Moved(dataset, device)


class _Moved:
    """A dataset whose batches are moved when they are fetched."""

    def __init__(self, dataset: Dataset, device: torch.device) -> None:
        self._dataset, self._device = dataset, device

    def __len__(self) -> int:
        return len(self._dataset)

    def batch(self, indices: Tensor) -> Batch:
        return _moved(fetch(self._dataset, indices), self._device)
