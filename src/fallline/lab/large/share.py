"""What a rank computes of a step: its share of the batch that a single process would take, and the mean over all shares.

The order of the examples is the counter-based one of every run, (seed, step) -> indices, of which rank r takes the r-th of
``size`` consecutive parts. Losses and metrics are means over examples, so that with n_r of n examples on rank r

    loss = sum_r (n_r / n) loss_r,    gradient = (1 / size) sum_r (size n_r / n) grad loss_r,

the outer mean being DDP's and FSDP's. Every rank therefore holds the loss, gradient and metric of the whole batch, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from fallline.lab.large.ranks import Ranks
from fallline.tasks import Batch, Task, fetch
from fallline.tasks.datasets import Dataset

__all__ = ["Measure", "Share", "on_device", "shared"]

Measure = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class Share:
    """A rank's part of a batch: ``count`` of its ``total`` examples."""

    batch: Batch
    count: int
    total: int


def shared(task: Task, loss: Measure, ranks: Ranks) -> Task:
    """The task as one rank trains it, for the same code that trains it in one process.

    ``loss`` is the task's, computed so that its gradients become means over the ranks.
    """
    if not ranks.group and ranks.device.type == "cpu":
        return task
    metric = replace(task.metric, fn=_mean_over_ranks(task.metric.fn, ranks))
    changed = replace(task, loss=_mean_over_ranks(_with_own_dropout(loss, ranks), ranks), metric=metric)
    if task.augment is None:  # else the whole batch is changed, with the random numbers of one process, and cut then
        changed = replace(changed, train=_Shares(task.train, ranks))
    return replace(changed, valid=_Shares(task.valid, ranks))


class _Shares:
    """A dataset that gives this rank's share of the examples asked for."""

    def __init__(self, dataset: Dataset, ranks: Ranks) -> None:
        self._dataset, self._ranks = dataset, ranks

    def __len__(self) -> int:
        return len(self._dataset)

    def batch(self, indices: Tensor) -> Share:
        own = indices.tensor_split(self._ranks.size)[self._ranks.rank]
        # with fewer examples than ranks, one that counts for nothing: all ranks must take part in every step
        return Share(fetch(self._dataset, own if len(own) else indices[:1]), len(own), len(indices))


def _cut(batch: Batch, ranks: Ranks) -> Share:
    """This rank's share of a whole batch: of its tensors along the first dimension, and the rest as it is."""
    total = next(len(x) for x in tree_leaves(batch) if isinstance(x, Tensor) and x.ndim)
    own = torch.arange(total).tensor_split(ranks.size)[ranks.rank]
    chosen = own if len(own) else torch.zeros(1, dtype=torch.int64)

    def part(x: Any) -> Any:
        return x[chosen] if isinstance(x, Tensor) and x.ndim and len(x) == total else x

    return Share(tree_map(part, batch), len(own), total)


def on_device(batch: Batch, ranks: Ranks) -> Batch:
    """The batch where this rank computes."""
    moved: Batch = tree_map(lambda x: x.to(ranks.device) if isinstance(x, Tensor) else x, batch)
    return moved


def _mean_over_ranks(measure: Measure, ranks: Ranks) -> Measure:
    def mean(model: nn.Module, batch: Batch) -> Tensor:
        share = batch if isinstance(batch, Share) else _cut(batch, ranks)
        own = measure(model, on_device(share.batch, ranks))
        if ranks.size == 1:
            return own
        sums = torch.as_tensor(own).detach().to(ranks.device, torch.float64) * share.count
        dist.all_reduce(sums)
        found: Tensor = _Mean.apply(own, sums / share.total, ranks.size * share.count / share.total)
        return found

    return mean


class _Mean(torch.autograd.Function):
    """The mean over ranks, the same number on each; its gradient is the rank's own, times ``weight``, for DDP to average."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, mean: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return mean.to(own.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] * ctx.weight, None, None


def _with_own_dropout(loss: Measure, ranks: Ranks) -> Measure:
    """Random numbers of its own for every rank, drawn from the step's: rank 0 on the CPU has those of a single process."""

    def seeded(model: nn.Module, batch: Batch) -> Tensor:
        if ranks.rank or ranks.device.type == "cuda":
            drawn = int(torch.randint(2**62, ())) ^ ranks.rank
            torch.default_generator.manual_seed(drawn)
            if ranks.device.type == "cuda":
                torch.cuda.manual_seed(drawn)
        return loss(model, batch)

    return seeded
