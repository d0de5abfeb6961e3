"""Worker processes: each trains one run at a time on one thread; the parent hands out runs and alone writes results.

A worker that dies takes only its run with it, and the run is tried once more. When the parent dies, its pipes close and
the workers end by themselves.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from fallline.core.errors import FalllineError
from fallline.lab.run import RunSpec, train
from fallline.tasks import Task, load

__all__ = ["RunFailed", "Workers"]

_ATTEMPTS = 2


class RunFailed(FalllineError):
    """A run ended by an error in the task's code, or its process died twice."""

    exit_code = 1


class Workers:
    """A pool that turns queued RunSpecs into (spec, record) pairs, in order of completion. Use as a context manager."""

    def __init__(self, tasks: dict[str, Task], num_workers: int) -> None:
        # fork shares the loaded data and needs no second import of torch; where it is unsafe, workers load for themselves
        self._context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self._tasks, self._num = tasks, num_workers
        self._queue: deque[tuple[RunSpec, int]] = deque()
        self._members: dict[Connection, Any] = {}
        self._busy: dict[Connection, tuple[RunSpec, int]] = {}

    def __enter__(self) -> Workers:
        torch.set_num_threads(1)  # also keeps OpenMP's pool, which would not survive a fork, from starting
        for _ in range(self._num):
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        for connection, process in self._members.items():
            process.kill()
            process.join()
            connection.close()
        self._members.clear()

    def submit(self, specs: Sequence[RunSpec]) -> None:
        """Queue runs; they start as workers become free."""
        self._queue.extend((spec, 1) for spec in specs)

    def __iter__(self) -> Iterator[tuple[RunSpec, dict[str, Any]]]:
        """Finished runs until the queue is empty; runs may be submitted meanwhile. Raises RunFailed."""
        while True:
            self._hand_out()
            if not self._busy:
                return
            for ready in wait(list(self._busy)):
                assert isinstance(ready, Connection)
                spec, attempt = self._busy.pop(ready)
                try:
                    kind, payload = ready.recv()
                except (EOFError, ConnectionResetError):
                    self._replace(ready, spec, attempt)
                    continue
                if kind == "error":
                    raise RunFailed(
                        f"The run '{spec.command}' stopped with an error in the task's code:\n{payload}\nA run must train to "
                        f"its end or diverge. Correct the task and repeat the command; finished runs are kept."
                    )
                yield spec, payload
                break  # hand out a run to the worker that is free now before looking at the others

    def _hand_out(self) -> None:
        for connection in self._members:
            if self._queue and connection not in self._busy:
                spec, attempt = self._queue.popleft()
                self._busy[connection] = (spec, attempt)
                connection.send(spec)

    def _replace(self, dead: Connection, spec: RunSpec, attempt: int) -> None:
        process = self._members.pop(dead)
        process.join()
        dead.close()
        if attempt >= _ATTEMPTS:
            raise RunFailed(
                f"The process of the run '{spec.command}' died twice (exit code {process.exitcode}). Expected it to finish; "
                f"the usual cause is too little memory. Use --workers 1 or a smaller model, and repeat the command."
            )
        self._start()
        self._queue.appendleft((spec, attempt + 1))

    def _start(self) -> None:
        ours, theirs = self._context.Pipe()
        forked = self._context.get_start_method() == "fork"
        inherited = [*self._members, ours] if forked else []  # a forked worker must not keep the parent's ends open
        tasks = self._tasks if forked else dict.fromkeys(self._tasks)
        process = self._context.Process(target=_work, args=(theirs, tasks, inherited, os.getpid()), daemon=True)  # type: ignore[attr-defined]
        process.start()
        theirs.close()
        self._members[ours] = process


def _work(pipe: Connection, tasks: dict[str, Task | None], inherited: list[Connection], parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for connection in inherited:
        connection.close()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="No C[+][+] compiler")  # the study says so once
    while True:
        try:
            spec = pipe.recv()
        except EOFError:
            return
        try:
            task = tasks[spec.task]
            if task is None:
                task = tasks[spec.task] = load(spec.task)
            reply: tuple[str, Any] = ("done", train(task, spec))
        except Exception:
            reply = ("error", "".join(traceback.format_exc(limit=-4)).strip())
        try:
            pipe.send(reply)
        except BrokenPipeError:
            return


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
