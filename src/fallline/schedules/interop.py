"""Schedules and torch's schedulers, both ways: ours driving any torch optimizer, theirs as a schedule of ours."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from fallline.core.errors import InvalidTypeError
from fallline.core.schedule import Schedule
from fallline.schedules.checks import positive, whole
from fallline.schedules.points import tabulated

__all__ = ["from_torch", "to_torch"]


def to_torch(schedule: Schedule, optimizer: torch.optim.Optimizer, last_epoch: int = -1) -> LambdaLR:
    """A scheduler of torch that multiplies every group's rate with the schedule; call its ``step()`` after the optimizer's.

    The rate of the n-th optimizer step is the group's initial rate times ``schedule(n)``. It saves and loads as LambdaLR does; the
    schedule itself is code and is given again. An optimizer of fallline takes the schedule as ``lr`` and needs no scheduler.
    """
    if not isinstance(schedule, Schedule):
        raise InvalidTypeError(
            f"to_torch got {schedule!r} as its schedule. Expected one of fallline.schedules. Write for example warmup(200) >> cosine(800)."
        )
    return LambdaLR(optimizer, lambda step: schedule(step + 1), last_epoch)


def from_torch(make: Callable[[torch.optim.Optimizer], LRScheduler], num_steps: int, lr: float = 1.0) -> Schedule:
    """The rates that a scheduler of torch gives over ``num_steps`` steps, as a schedule.

    ``make`` builds the scheduler for an optimizer whose rate is ``lr``: ``from_torch(lambda o: OneCycleLR(o, 0.1, 1000), 1000)``.
    Schedulers that look at the loss have no such table and are refused.
    """
    whole("from_torch", "num_steps", num_steps)
    positive("from_torch", "lr", lr)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=lr, momentum=0.9)
    scheduler = make(optimizer)
    if not isinstance(scheduler, LRScheduler) or isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise InvalidTypeError(
            f"from_torch got {type(scheduler).__name__}. Expected a scheduler whose rate depends on the step alone. "
            f"Write for example from_torch(lambda optimizer: CosineAnnealingLR(optimizer, 1000), 1000)."
        )
    rates = []
    for _ in range(num_steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return tabulated(tuple(rates))
