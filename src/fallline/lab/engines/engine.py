"""What an engine is: it trains groups of runs somewhere, several at a time, and says what became of each.

An engine knows nothing of studies, retries or results on disk. A group is the unit of work: the runs of one task and method that
train together as a population where that is possible.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol, TypeAlias

from fallline.lab.halving import train_halving
from fallline.lab.noise import train_and_measure
from fallline.lab.population import Alone, train_population
from fallline.lab.run import RunSpec, train
from fallline.tasks import Task

__all__ = ["Engine", "Group", "Kind", "Reply", "train_group"]

Group: TypeAlias = tuple[RunSpec, ...]

Kind: TypeAlias = Literal["done", "alone", "error", "lost"]


@dataclass(frozen=True)
class Reply:
    """What became of a group: ``done`` with a record for each run, ``alone`` (its runs must train one by one) with the reason,
    ``error`` with the traceback of the task's code, or ``lost`` with what is known of its worker's end."""

    group: Group
    kind: Kind
    content: Any


class Engine(Protocol):
    """Trains groups of runs. A context manager: workers start when it is entered, and none is left when it ends."""

    attempts: int
    """How often a group may be lost before something other than chance must be the cause."""

    advice: str
    """What to do then, as the end of a sentence."""

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def num_free(self) -> int:
        """How many more groups can be started now."""

    def num_busy(self) -> int:
        """How many groups were started and not yet replied to."""

    def start(self, group: Group) -> None:
        """Begin to train a group; only while ``num_free()`` is positive."""

    def wait(self) -> Sequence[Reply]:
        """Wait for at least one group to end, and return those that have. A signal handler that raises ends the wait."""


def train_group(get_task: Callable[[], Task], group: Group) -> tuple[Kind, Any]:
    """The kind and content of the reply, in the process that trains: every engine's workers call this."""
    try:
        task = get_task()
        if group[0].purpose == "noise":
            return "done", [train_and_measure(task, spec) for spec in group]
        if group[0].purpose == "prune":
            return "done", train_halving(task, group)
        if len(group) == 1:
            return "done", [train(task, group[0])]
        return "done", train_population(task, group)
    except Alone as reason:
        return "alone", str(reason)
    except Exception:
        return "error", "".join(traceback.format_exc(limit=-4)).strip()
