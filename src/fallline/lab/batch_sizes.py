"""What a study compares methods on: a task, or a task at another batch size, written ``TASK@32``."""

from __future__ import annotations

from dataclasses import replace

from fallline.tasks import Task, load

__all__ = ["at_batch_size", "base_of", "label", "load_entry"]


def load_entry(reference: str) -> Task:
    """The task that ``TASK`` or ``TASK@32`` names. Raises FalllineError as loading a task and making one do."""
    base = base_of(reference)
    return load(base) if base == reference else at_batch_size(load(base), int(reference[len(base) + 1 :]))


def base_of(reference: str) -> str:
    """The task without its batch size."""
    base, _, size = reference.rpartition("@")
    return base if base and size.isdigit() else reference


def label(reference: str, task: Task) -> str:
    """The name that results give to an entry."""
    return task.name if base_of(reference) == reference else f"{task.name}@{task.batch_size}"


def at_batch_size(task: Task, size: int) -> Task:
    """The same task with other batches and as many samples: steps change by the inverse factor."""
    steps = max(1, round(task.steps * task.batch_size / max(1, size)))
    return replace(task, batch_size=size, steps=steps, num_evals=min(task.num_evals, steps))
