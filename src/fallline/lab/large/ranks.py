"""The processes of a run, called ranks, and the device on which this one computes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from fallline.core.errors import FalllineError

__all__ = ["Ranks", "joined"]


@dataclass(frozen=True)
class Ranks:
    """This process is number ``rank`` of ``size``; ``group`` says whether they can talk to each other."""

    rank: int
    size: int
    device: torch.device
    group: bool


@contextmanager
def joined(wanted: str | None = None) -> Iterator[Ranks]:
    """Join the other processes that torchrun started, and leave them at the end; without torchrun there is one.

    ``wanted`` is the device, ``cpu`` or ``cuda``; by default a GPU for each process of this machine where there are as many.
    Raises FalllineError for a device that is not there.
    """
    device = _device(wanted)
    if dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size(), device, True)
        return
    if "WORLD_SIZE" not in os.environ:
        yield Ranks(0, 1, device, False)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield Ranks(dist.get_rank(), dist.get_world_size(), device, True)
    dist.destroy_process_group()  # not after an error, when it could wait for ranks that wait for this one


def _device(wanted: str | None) -> torch.device:
    if wanted not in (None, "cpu", "cuda"):
        raise FalllineError(f"The device is {wanted!r}. Expected cpu or cuda. Pass --device cpu.")
    number, here = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cpu" or (wanted is None and found < here):
        return torch.device("cpu")
    if found < here:
        raise FalllineError(
            f"There are {found} GPUs for {here} processes of this machine. Expected one for each. Start fewer with "
            f"--nproc-per-node, or pass --device cpu."
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)
