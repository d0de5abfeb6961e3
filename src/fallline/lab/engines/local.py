"""The local engine: worker processes of this machine, each training one group of runs at a time on one thread.

A worker that dies takes only its group with it, and another takes its place. When the parent dies, its pipes close and the
workers end by themselves.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from fallline.lab.batch_sizes import load_entry
from fallline.lab.engines.engine import Group, Reply, train_group
from fallline.tasks import Task

__all__ = ["LocalEngine", "keep_memory", "prepare_process"]

_KEPT_BYTES = 2**28
"""Freed memory that a worker keeps instead of giving it back: a population asks for the same megabytes at every step, and clearing
fresh pages takes longer than most of its operations."""


class LocalEngine:
    """Worker processes on this machine; an ``Engine``."""

    attempts = 2
    advice = "Use --workers 1 or a smaller model"

    def __init__(self, tasks: Mapping[str, Task], num_workers: int) -> None:
        # fork shares the loaded data and needs no second import of torch; where it is unsafe, workers load for themselves
        self._context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self._tasks, self._num = dict(tasks), num_workers
        self._members: dict[Connection, Any] = {}
        self._busy: dict[Connection, Group] = {}

    def __enter__(self) -> LocalEngine:
        torch.set_num_threads(1)  # also keeps OpenMP's pool, which would not survive a fork, from starting
        for _ in range(self._num):
            self._add_member()
        return self

    def __exit__(self, *_: object) -> None:
        for connection, process in self._members.items():
            process.kill()
            process.join()
            connection.close()
        self._members.clear()
        self._busy.clear()

    def num_free(self) -> int:
        return len(self._members) - len(self._busy)

    def num_busy(self) -> int:
        return len(self._busy)

    def start(self, group: Group) -> None:
        free = next(connection for connection in self._members if connection not in self._busy)
        self._busy[free] = group
        free.send(group)

    def wait(self) -> list[Reply]:
        replies = []
        for ready in wait(list(self._busy)):
            assert isinstance(ready, Connection)
            group = self._busy.pop(ready)
            try:
                replies.append(Reply(group, *ready.recv()))
            except (EOFError, ConnectionResetError):
                replies.append(Reply(group, "lost", f"exit code {self._replace(ready)}"))
        return replies

    def _replace(self, dead: Connection) -> int | None:
        """A new worker for one that has died, whose exit code is returned."""
        process = self._members.pop(dead)
        process.join()
        dead.close()
        self._add_member()
        code: int | None = process.exitcode
        return code

    def _add_member(self) -> None:
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
    prepare_process()
    while True:
        try:
            group = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(train_group(partial(_task, tasks, group[0].task), group))
        except BrokenPipeError:
            return


def _task(tasks: dict[str, Task | None], name: str) -> Task:
    task = tasks[name] = tasks[name] or load_entry(name)
    return task


def prepare_process() -> None:
    """What every process that trains groups of runs does first: one thread, as a study's runs have, and memory that stays."""
    torch.set_num_threads(1)
    keep_memory()
    warnings.filterwarnings("ignore", message="No C[+][+] compiler")  # the study says so once


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
