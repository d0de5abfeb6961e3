"""Worker processes: each trains one run, or one population of runs, at a time on one thread; the parent hands out work and
alone writes results.

A worker that dies takes only its work with it, which is tried once more. When the parent dies, its pipes close and
the workers end by themselves.
"""

from __future__ import annotations

import ctypes
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
from fallline.lab.entries import load_entry
from fallline.lab.halving import train_halving
from fallline.lab.noise import train_and_measure
from fallline.lab.population import Alone, train_population
from fallline.lab.run import RunSpec, train
from fallline.tasks import Task

__all__ = ["RunFailed", "Workers", "keep_memory"]

_ATTEMPTS = 2

_KEPT_BYTES = 2**28
"""Freed memory that a worker keeps instead of giving it back: a population asks for the same megabytes at every step, and clearing
fresh pages takes longer than most of its operations."""


class RunFailed(FalllineError):
    """A run ended by an error in the task's code, or its process died twice."""

    exit_code = 1


class Workers:
    """A pool that turns queued RunSpecs into (spec, record) pairs, in order of completion. Use as a context manager.

    Runs queued as a group become a population where that is possible and faster; where not, they train one by one, and ``alone``
    holds why, by (task, method).
    """

    def __init__(self, tasks: dict[str, Task], num_workers: int) -> None:
        # fork shares the loaded data and needs no second import of torch; where it is unsafe, workers load for themselves
        self._context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self._tasks, self._num = tasks, num_workers
        self._queue: deque[tuple[tuple[RunSpec, ...], int]] = deque()
        self._members: dict[Connection, Any] = {}
        self._busy: dict[Connection, tuple[tuple[RunSpec, ...], int]] = {}
        self.alone: dict[tuple[str, str], str] = {}

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

    def submit(self, groups: Sequence[Sequence[RunSpec]]) -> None:
        """Queue groups of runs of one task and method; they start as workers become free."""
        for group in groups:
            kind = (group[0].task, group[0].method)
            split = kind in self.alone and group[0].purpose != "prune"
            self._queue.extend([((spec,), 1) for spec in group] if split else [(tuple(group), 1)])

    def __iter__(self) -> Iterator[tuple[RunSpec, dict[str, Any]]]:
        """Finished runs until the queue is empty; runs may be submitted meanwhile. Raises RunFailed."""
        while True:
            self._hand_out()
            if not self._busy:
                return
            for ready in wait(list(self._busy)):
                assert isinstance(ready, Connection)
                group, attempt = self._busy.pop(ready)
                try:
                    kind, payload = ready.recv()
                except (EOFError, ConnectionResetError):
                    self._replace(ready, group, attempt)
                    continue
                if kind == "alone":
                    self.alone[group[0].task, group[0].method] = payload
                    self._queue.extendleft(((spec,), 1) for spec in reversed(group))
                    continue
                if kind == "error":
                    raise RunFailed(
                        f"The run '{group[0].command}' stopped with an error in the task's code:\n{payload}\nA run must train to "
                        f"its end or diverge. Correct the task and repeat the command; finished runs are kept."
                    )
                self._hand_out()  # before the records are written
                yield from zip(group, payload, strict=True)
                break  # hand out work to the worker that is free now before looking at the others

    def _hand_out(self) -> None:
        for connection in self._members:
            if self._queue and connection not in self._busy:
                group, attempt = self._queue.popleft()
                self._busy[connection] = (group, attempt)
                connection.send(group)

    def _replace(self, dead: Connection, group: tuple[RunSpec, ...], attempt: int) -> None:
        process = self._members.pop(dead)
        process.join()
        dead.close()
        if attempt >= _ATTEMPTS and (len(group) == 1 or group[0].purpose == "prune"):
            raise RunFailed(
                f"The process of the run '{group[0].command}' died twice (exit code {process.exitcode}). Expected it to finish; "
                f"the usual cause is too little memory. Use --workers 1 or a smaller model, and repeat the command."
            )
        self._start()
        if attempt >= _ATTEMPTS:  # one by one, then: alone a run needs the least memory
            self._queue.extendleft(((spec,), attempt) for spec in reversed(group))
        else:
            self._queue.appendleft((group, attempt + 1))

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
    keep_memory()
    warnings.filterwarnings("ignore", message="No C[+][+] compiler")  # the study says so once
    while True:
        try:
            group = pipe.recv()
        except EOFError:
            return
        try:
            task = tasks[group[0].task]
            if task is None:
                task = tasks[group[0].task] = load_entry(group[0].task)
            reply = _trained(task, group)
        except Exception:
            reply = ("error", "".join(traceback.format_exc(limit=-4)).strip())
        try:
            pipe.send(reply)
        except BrokenPipeError:
            return


def _trained(task: Task, group: tuple[RunSpec, ...]) -> tuple[str, Any]:
    if group[0].purpose == "noise":
        return "done", [train_and_measure(task, spec) for spec in group]
    if group[0].purpose == "prune":
        return "done", train_halving(task, group)
    if len(group) == 1:
        return "done", [train(task, group[0])]
    try:
        return "done", train_population(task, group)
    except Alone as reason:
        return "alone", str(reason)


def keep_memory() -> None:
    """Have this process keep freed memory for its next use, where the C library can be told so."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD, the largest that glibc takes
        libc.mallopt(-1, _KEPT_BYTES)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):  # another C library
        pass


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
