"""The run: the model over the ranks, the same steps as in one process, and checkpoints on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
import torch.distributed as dist
from torch import nn

from fallline.checkpoint import load_sharded, save_sharded
from fallline.checkpoint.ranks import from_rank_0, together
from fallline.core.errors import FalllineError
from fallline.core.optimizer import Optimizer
from fallline.lab.entries import StepMethod, entry_of
from fallline.lab.large.ranks import Ranks
from fallline.lab.large.share import Measure, on_device, shared
from fallline.lab.run import Record, Running, RunSpec, advance, chain_of
from fallline.lab.streams import generator, seeded
from fallline.tasks import Task, evaluate, fetch

__all__ = ["LargeRun", "Parallel", "train_large"]

Parallel: TypeAlias = Literal["ddp", "fsdp"]

SAVES = 10
"""Checkpoints of a run whose user does not say how often."""


@dataclass(frozen=True)
class LargeRun:
    """How a run is carried out, which does not change its numbers beyond rounding.

    ``parallel`` is ``ddp`` (every rank holds the model; the default for two ranks and more) or ``fsdp`` (parameters, gradients and
    state lie in parts over the ranks). Checkpoints go to the folder ``save`` after ``every`` steps and at the end; ``resume`` is a
    folder with one to go on from, and the folder of ``save`` may still be empty, so that one command starts and restarts.
    """

    parallel: Parallel | None = None
    save: Path | None = None
    every: int | None = None
    resume: Path | None = None

    def check(self, task: Task, ranks: Ranks) -> None:
        """Raises FalllineError for options that mean nothing, here or at all."""
        if self.parallel not in (None, "ddp", "fsdp"):
            raise FalllineError(f"parallel is {self.parallel!r}. Expected ddp or fsdp. Pass --parallel ddp.")
        if self.parallel is not None and not ranks.group:
            raise FalllineError(
                f"--parallel {self.parallel} got one process that was started by itself. Expected processes of torchrun. Start it with: "
                f"torchrun --nproc-per-node 2 -m fallline run ..."
            )
        if self.every is not None and (self.save is None or self.every < 1):
            seen = f"--every {self.every}" + (" without --save" if self.save is None else "")
            raise FalllineError(
                f"{seen} saves nothing. Expected a positive number of steps and a folder. Pass --save DIR --every 100."
            )
        if task.batch_size % ranks.size:
            fits = next(n for n in range(ranks.size, 0, -1) if task.batch_size % n == 0)
            raise FalllineError(
                f"The batch of {task.batch_size} examples of {task.name} cannot be split evenly over {ranks.size} processes. Expected a "
                f"number of processes that divides it. Start {fits}, or change the task's batch_size."
            )
        if self.save is not None and _holds_checkpoint(self.save) and not _same(self.save, self.resume):
            raise FalllineError(
                f"{self.save} holds a checkpoint already. Expected a new folder, or a run that goes on from it. Add --resume {self.save}, "
                f"or choose another folder."
            )


def train_large(
    task: Task,
    spec: RunSpec,
    ranks: Ranks,
    how: LargeRun,
    on_evaluation: Callable[[int, float, float], None] = lambda step, loss, metric: None,
    on_note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Train ``spec`` over all ranks, called by each; returns the record, as ``lab.train`` does, on every rank.

    Raises FalllineError on every rank for what cannot be run, before the first step.
    """
    with together("fallline run"):
        how.check(task, ranks)
        if isinstance(entry_of(spec.method), StepMethod):
            raise FalllineError(
                f"{spec.method} is a second-order solver, which trains in one process and saves no checkpoints. Expected one of 'fallline "
                f"methods' that steps along the gradient. Leave out --parallel, --save and --resume, or take another method."
            )
        with seeded(spec.seed, "init"):
            model = task.model()
        model = model.to(ranks.device)
        loss = _over_ranks(task, model, ranks, how.parallel)
        optimizer = Optimizer(model, chain_of(task, spec), seed=spec.seed)
    record, begun = Record(task, spec), 0
    identity = _identity(task, spec)
    if how.resume is not None and (
        not _same(how.save, how.resume) or from_rank_0(lambda: _holds_checkpoint(how.resume))
    ):
        begun = _resumed(how.resume, identity, model, optimizer, record)
        on_note(f"goes on after step {begun} of {spec.steps}")
    for text in _notes(model, ranks):
        on_note(text)
    every = how.every or max(1, spec.steps // SAVES)

    def judge(task: Task, model: nn.Module) -> float:
        _share_buffers(model, ranks)
        return evaluate(task, model)

    if record.diverged_at is None:
        for t in advance(shared(task, loss, ranks), Running(model, optimizer, record), begun, judge):
            if record.curve["steps"] and record.curve["steps"][-1] == t:
                on_evaluation(t, record.curve["train_loss"][-1], record.curve["metric"][-1])
            if how.save is not None and (t % every == 0 or t == spec.steps):
                _share_buffers(model, ranks)
                extra = {"run": identity, "step": t, "record": record.state()}
                save_sharded(how.save, model=model, optimizer=optimizer, extra=extra)
    return record.result()


# -- the model over ranks ------------------------------------------------------------------------------------------------


class _Loss(nn.Module):
    """The loss as a module that calls the model, so that DDP sees one forward however the task's loss uses its model."""

    def __init__(self, model: nn.Module, loss: Measure) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Any) -> Any:
        return self.loss(self.model, batch)


def _over_ranks(task: Task, model: nn.Module, ranks: Ranks, parallel: Parallel | None) -> Measure:
    """The loss of a rank's own examples, whose backward leaves the mean over ranks in ``.grad``."""
    if not ranks.group or (ranks.size == 1 and parallel is None):
        return task.loss
    if parallel == "fsdp":
        _shard(model, ranks)
        return task.loss
    averaged = nn.parallel.DistributedDataParallel(
        _Loss(model, task.loss), find_unused_parameters=_some_unused(task, model, ranks)
    )

    def loss(model: nn.Module, batch: Any) -> Any:
        return averaged(batch)

    return loss


def _some_unused(task: Task, model: nn.Module, ranks: Ranks) -> bool:
    """Whether parameters have no gradient of a batch, the same on all ranks; DDP must know, and pays for it in every step."""
    batch = fetch(task.train, torch.arange(task.batch_size // ranks.size))
    batch = batch if task.augment is None else task.augment(batch, generator(0, "noise"))
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with seeded(0, "dropout"):
        task.loss(model, on_device(batch, ranks)).backward()
    for buffer, value in kept:
        buffer.copy_(value)
    found = any(p.grad is None for p in model.parameters() if p.requires_grad)
    model.zero_grad()
    return found


def _shard(model: nn.Module, ranks: Ranks) -> None:
    """Shard each block, a member of a ModuleList or Sequential with parameters, by itself, and what remains as the root."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(ranks.device.type, (ranks.size,))
    for holder in reversed(list(model.modules())):  # inner ones first
        if isinstance(holder, nn.ModuleList | nn.Sequential) and holder is not model:
            for block in holder:
                if any(True for _ in block.parameters()) and not isinstance(block, nn.ModuleList):
                    fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _share_buffers(model: nn.Module, ranks: Ranks) -> None:
    """Rank 0's running statistics on all ranks, as DDP has them in forward."""
    if ranks.size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def _notes(model: nn.Module, ranks: Ranks) -> list[str]:
    """What differs from the same run in one process."""
    if ranks.size == 1:
        return []
    notes = []
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        notes.append(
            "batch normalisation sees the examples of its own process only: another number of processes gives other numbers"
        )
    if any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in model.modules()):
        notes.append("every process draws its own dropout masks: another number of processes gives other numbers")
    return notes


# -- checkpoints ---------------------------------------------------------------------------------------------------------


def _identity(task: Task, spec: RunSpec) -> dict[str, Any]:
    """What a run's numbers depend on, apart from the task's code."""
    facts = {**asdict(spec), "hypers": dict(spec.hypers), "batch_size": task.batch_size, "examples": len(task.train)}
    del facts["purpose"]
    return facts


def _resumed(folder: Path, identity: dict[str, Any], model: nn.Module, optimizer: Optimizer, record: Record) -> int:
    """Everything as it was after the checkpoint's step, which is returned."""
    extra = load_sharded(folder)
    held = extra.get("run") if isinstance(extra, dict) else None
    if held != identity:
        seen = (
            "no run"
            if held is None
            else ", ".join(f"{k} {held.get(k)!r}" for k in identity if held.get(k) != identity[k])
        )
        asked = ", ".join(f"{k} {identity[k]!r}" for k in identity if held is None or held.get(k) != identity[k])
        raise FalllineError(
            f"{folder} was saved with {seen}; this run has {asked}. A run goes on with the settings that it began with. Repeat its "
            f"command, or leave --resume out."
        )
    load_sharded(folder, model=model, optimizer=optimizer)
    record.restore(extra["record"])
    return int(extra["step"])


def _holds_checkpoint(folder: Path | None) -> bool:
    """Whether a checkpoint is there, also one whose replacing was interrupted between the two renames."""
    if folder is None:
        return False
    old = folder.parent.glob(f".{folder.name}.old-*") if folder.parent.is_dir() else ()
    return any((place / "checkpoint.safetensors").is_file() for place in (folder, *old))


def _same(a: Path | None, b: Path | None) -> bool:
    return a is not None and b is not None and a.resolve() == b.resolve()
