"""What the ranks of a checkpoint tell each other; without a process group there is one rank and nothing to tell."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from fallline.core.errors import CheckpointError

__all__ = ["alone", "from_rank_0", "rank", "together"]

T = TypeVar("T")


def alone() -> bool:
    """Whether there is no process group."""
    return not (dist.is_available() and dist.is_initialized())


def rank() -> int:
    return 0 if alone() else dist.get_rank()


@contextlib.contextmanager
def together(doing: str) -> Iterator[None]:
    """Every rank raises if one does, at the end of the block, so that none goes on or waits for another."""
    error: BaseException | None = None
    try:
        yield
    except CheckpointException as failure:  # torch's, a BaseException, the same on every rank
        number, (error, _) = next(iter(failure.failures.items()))
        if not isinstance(error, CheckpointError):
            raise CheckpointError(
                f"{doing} failed on rank {number}: {error!r}. Expected every rank to succeed. Nothing was changed; see "
                f"the cause above."
            ) from failure
    except Exception as failure:
        error = failure
    own = None if error is None else str(error)
    told: list[str | None] = [own]
    if not alone():
        told = [None] * dist.get_world_size()
        dist.all_gather_object(told, own)
    if error is not None:
        raise error
    for number, text in enumerate(told):
        if text is not None:
            raise CheckpointError(f"{doing} failed on rank {number}: {text}")


def from_rank_0(make: Callable[[], T]) -> T:
    """What ``make`` returns on rank 0, on every rank; an error there is raised on every rank."""
    answer: list[Any] = [None, None]
    if rank() == 0:
        try:
            answer[0] = make()
        except Exception as error:
            answer[1] = error
    if not alone():
        own = answer[1]
        answer[1] = None if own is None else CheckpointError(str(own))
        dist.broadcast_object_list(answer, src=0)
        answer[1] = own or answer[1]
    if answer[1] is not None:
        raise answer[1]
    return answer[0]
