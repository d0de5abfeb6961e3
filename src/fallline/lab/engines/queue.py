"""The queue between a study and its engine: what is trained next, and what to do when a group is lost.

A lost group is tried again from its first step: its runs take seconds to minutes, and one that starts anew gives the numbers
that it would have given, whatever its batch of runs had reached.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from fallline.core.errors import FalllineError
from fallline.lab.engines.engine import Engine, Group, Reply
from fallline.lab.run import RunSpec

__all__ = ["RunFailed", "RunQueue"]


class RunFailed(FalllineError):
    """A run ended by an error in the task's code, or was lost too often."""

    exit_code = 1


class RunQueue:
    """Turns queued groups of runs into (spec, record) pairs, in order of completion, by an engine that has been entered.

    Runs queued as a group become a population where that is possible and faster; where not, they train one by one, and ``alone``
    holds why, by (task, method).
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: deque[Group] = deque()
        self._lost: dict[Group, int] = {}
        self.alone: dict[tuple[str, str], str] = {}

    def submit(self, groups: Sequence[Sequence[RunSpec]]) -> None:
        """Queue groups of runs of one task and method; they start as workers become free."""
        for group in groups:
            together = (group[0].task, group[0].method) not in self.alone or not _divisible(group)
            self._waiting.extend([tuple(group)] if together else [(spec,) for spec in group])

    def __iter__(self) -> Iterator[tuple[RunSpec, dict[str, Any]]]:
        """Finished runs until the queue is empty; runs may be submitted meanwhile. Raises RunFailed."""
        while True:
            self._start()
            if not self._engine.num_busy():
                return
            replies = self._engine.wait()
            done = [reply for reply in replies if reply.kind == "done"]
            for reply in replies:
                if reply.kind == "alone":
                    self.alone[reply.group[0].task, reply.group[0].method] = reply.content
                    self._first(reply.group)
                elif reply.kind == "lost" and self._may_go_on(reply):
                    self._again(reply.group)
            self._start()  # before the records are written
            for reply in done:
                yield from zip(reply.group, reply.content, strict=True)
            self._complain(replies)  # after what is done has been kept

    def _start(self) -> None:
        while self._waiting and self._engine.num_free() > 0:
            self._engine.start(self._waiting.popleft())

    def _first(self, group: Group) -> None:
        """Its runs go one by one to the head of the queue."""
        self._waiting.extendleft((spec,) for spec in reversed(group))

    def _may_go_on(self, reply: Reply) -> bool:
        self._lost[reply.group] = self._lost.get(reply.group, 0) + 1
        return _divisible(reply.group) or self._lost[reply.group] < self._engine.attempts

    def _again(self, group: Group) -> None:
        if self._lost[group] < self._engine.attempts:
            self._waiting.appendleft(group)
            return
        for spec in group:  # one by one, then: alone a run needs the least memory
            self._lost[spec,] = self._engine.attempts - 1
        self._first(group)

    def _complain(self, replies: Sequence[Reply]) -> None:
        for reply in replies:
            run = reply.group[0]
            if reply.kind == "error":
                raise RunFailed(
                    f"The run '{run.command}' stopped with an error in the task's code:\n{reply.content}\nA run must train to "
                    f"its end or diverge. Correct the task and repeat the command; finished runs are kept."
                )
            if (
                reply.kind == "lost"
                and not _divisible(reply.group)
                and self._lost[reply.group] >= self._engine.attempts
            ):
                times = {1: "once", 2: "twice"}.get(self._engine.attempts, f"{self._engine.attempts} times")
                raise RunFailed(
                    f"The process of the run '{run.command}' died {times} ({reply.content}). Expected it to finish; the usual "
                    f"cause is too little memory. {self._engine.advice}, and repeat the command."
                )


def _divisible(group: Sequence[RunSpec]) -> bool:
    """Whether the runs could train one by one, too: trials that are given up by comparison cannot."""
    return len(group) > 1 and group[0].purpose != "prune"
