"""An entry of the registry: a task whose data has not been read yet, so that listing is cheap."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from fallline.core.space import Range
from fallline.tasks.data import Corpus
from fallline.tasks.datasets import Batch, Dataset
from fallline.tasks.generated import Generated
from fallline.tasks.task import Metric, Task

__all__ = ["Entry"]


@dataclass(frozen=True, eq=False)
class Entry:
    """The fields of a Task, with a corpus and ``split(*arrays) -> (train, valid)`` in place of the data."""

    name: str
    summary: str
    corpus: Corpus | Generated
    split: Callable[..., tuple[Dataset, Dataset]]
    model: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Batch], Tensor]
    metric: Metric
    target: float
    target_note: str
    batch_size: int
    steps: int
    num_evals: int = 20
    augment: Callable[[Batch, torch.Generator], Batch] | None = None
    spaces: Mapping[str, Mapping[str, Range]] = field(default_factory=dict)

    @property
    def data(self) -> str:
        """The data in one line: name, size, licence."""
        return f"{self.corpus.name}, {self.corpus.size} ({self.corpus.licence})"

    @property
    def doc(self) -> str:
        """The text of the task's module: the data, the model and what the task tells apart."""
        return (sys.modules[self.split.__module__].__doc__ or "").strip()

    @property
    def num_parameters(self) -> int:
        """The number of trainable numbers in the model."""
        with torch.random.fork_rng(devices=[]):
            return sum(p.numel() for p in self.model().parameters() if p.requires_grad)

    def load(self, path: Path | str | None = None) -> Task:
        """Read the data, from the folder ``path`` if given, and make the Task."""
        arrays, source = self.corpus.load(path)
        train, valid = self.split(*arrays)
        return Task(
            name=self.name,
            summary=self.summary,
            model=self.model,
            loss=self.loss,
            train=train,
            valid=valid,
            metric=self.metric,
            target=self.target,
            batch_size=self.batch_size,
            steps=self.steps,
            num_evals=self.num_evals,
            augment=self.augment,
            sources=(source,),
            spaces=self.spaces,
            target_note=self.target_note,
        )
