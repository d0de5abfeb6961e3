"""The Ray engine: groups of runs are Ray tasks, on as many machines as the cluster has.

The driver (the ``fallline`` command) loads the tasks and sends them with their data, once to each machine, so that all workers
train on the same data and a user's own file need not be there. Records come back to the driver, which alone writes results.

Groups on a machine that dies are lost and started anew by the queue. Ray itself retries nothing here, so that there is one rule.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import socket
import sys
import sysconfig
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import fallline
from fallline.core.errors import FalllineError
from fallline.lab.engines.engine import Group, Kind, Reply, train_group
from fallline.lab.engines.local import prepare_process
from fallline.tasks import Task

__all__ = ["RayEngine", "ray_module"]

_LOOK_SECONDS = 0.5
"""How long one wait for Ray lasts: signals are looked at in between."""

_KNOCK_SECONDS = 10.0

Versions = dict[str, str]


class RayEngine:
    """Tasks of Ray, each training one group on one CPU; an ``Engine``.

    Args:
        num_workers: groups at a time; by default as many as the cluster has CPUs, counted anew as machines come and go. More than
            there are CPUs wait in Ray's queue, where its autoscaler sees them.
        address: of a running cluster, as ``auto``, ``10.0.0.5:6379`` or ``ray://head:10001``; without it the variable RAY_ADDRESS,
            and without that a cluster of this machine alone, which ends with the study.

    Raises FalllineError without Ray, where no cluster answers, or if a task cannot be sent.
    """

    attempts = 4  # machines of a cluster come and go, so chance takes more of them
    advice = "Give the workers more memory, or take a smaller model"

    def __init__(self, tasks: Mapping[str, Task], num_workers: int | None = None, address: str | None = None) -> None:
        self._ray = ray_module()
        self._tasks, self._num_workers = dict(tasks), num_workers
        self._address = address or os.environ.get("RAY_ADDRESS") or "local"
        self._sent: dict[str, Any] = {}
        self._busy: dict[Any, Group] = {}
        self._connected = False

    def __enter__(self) -> RayEngine:
        if not self._ray.is_initialized():
            with _signal_handlers_kept():
                self._connect()
            self._connected = True
        try:
            self._sent = {name: self._ray.put(self._pickled(name, task)) for name, task in self._tasks.items()}
        except BaseException:
            self.__exit__()
            raise
        # Ray retries nothing: a lost group goes back to the queue.
        self._train = self._ray.remote(num_cpus=1, max_retries=0)(_train)
        return self

    def __exit__(self, *_: object) -> None:
        for reference in self._busy:
            with contextlib.suppress(Exception):  # a cluster that is gone needs no cancelling
                self._ray.cancel(reference, force=True)
        self._busy.clear()
        self._sent.clear()
        if self._connected:
            self._ray.shutdown()
            self._connected = False

    def num_free(self) -> int:
        limit = self._num_workers or max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        return limit - len(self._busy)

    def num_busy(self) -> int:
        return len(self._busy)

    def start(self, group: Group) -> None:
        # in a list the reference goes as it is, and is fetched once in a worker, not once in a group
        reference = self._train.remote([self._sent[group[0].task]], group, _versions())
        self._busy[reference] = group

    def wait(self) -> list[Reply]:
        ready: list[Any] = []
        with _signals_passed_on():
            while not ready:
                ready, _ = self._ray.wait(list(self._busy), num_returns=1, timeout=_LOOK_SECONDS)
            more, _ = self._ray.wait(list(self._busy), num_returns=len(self._busy), timeout=0)
            return [Reply(self._busy.pop(reference), *self._result(reference)) for reference in more or ready]

    def _result(self, reference: Any) -> tuple[Kind, Any]:
        errors = self._ray.exceptions
        try:
            kind, content = self._ray.get(reference)
        except errors.RayTaskError as error:  # before the task's code: fallline is not there, for example
            return "error", re.sub(r"\x1b\[\d+m", "", str(error)).strip()  # without colours
        except errors.RayError as error:
            return "lost", f"{type(error).__name__}: {str(error).strip().splitlines()[0].rstrip('.')}"
        return kind, content

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault(
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
        )  # else a warning about GPUs that are not asked for
        local = self._address == "local"
        options: dict[str, Any] = {"include_dashboard": False, "num_cpus": self._num_workers} if local else {}
        try:
            _knock(self._address)
            self._ray.init(address=self._address, log_to_driver=False, logging_level="error", **options)
        except Exception as error:
            told = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
            raise FalllineError(
                f"No Ray cluster answers at {self._address!r} ({type(error).__name__}: {told}). Expected a running one. Start it with "
                f"'ray start --head', correct --address, or leave it out for a cluster of this machine alone."
            ) from error

    def _pickled(self, name: str, task: Task) -> bytes:
        pickle = self._ray.cloudpickle
        modules = _users_modules(name)
        for module in modules:
            pickle.register_pickle_by_value(module)
        try:
            content: bytes = pickle.dumps(task)
        except Exception as error:
            raise FalllineError(
                f"The task {name} cannot be sent to workers ({type(error).__name__}: {error}). Expected functions and data that can "
                f"be pickled. Make files, locks and connections inside functions, when they are first used, or take "
                f"--engine local."
            ) from error
        finally:
            for module in modules:
                pickle.unregister_pickle_by_value(module)
        return content


def _knock(address: str) -> None:
    """Raise OSError where nothing listens: Ray would try for minutes, and then end the process."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()


def ray_module() -> ModuleType:
    """Ray, or the error that says how to install it."""
    try:
        import ray
    except ImportError as error:
        raise FalllineError(
            f"--engine ray needs Ray, which is not installed ({error}). Expected it in this environment. Install it with: "
            f"pip install 'fallline[ray]'"
        ) from error
    module: ModuleType = ray
    return module


def _train(sent: list[Any], group: Group, wanted: Versions) -> tuple[Kind, Any]:
    """In a worker of the cluster."""
    prepare_process()
    found = _versions()
    if found != wanted:
        told = ", ".join(f"{name} {found[name]}, not {wanted[name]}" for name in wanted if found[name] != wanted[name])
        return "error", f"A worker has {told}, so its numbers could differ. Install the same versions on every machine."
    return train_group(functools.partial(_task, sent[0]), group)


@functools.lru_cache(maxsize=8)
def _task(reference: Any) -> Task:
    """A task that was sent, read once in a process."""
    ray = ray_module()
    task: Task = ray.cloudpickle.loads(ray.get(reference))
    return task


def _versions() -> Versions:
    """What decides numbers besides the hardware."""
    return {"fallline": fallline.__version__, "torch": torch.__version__, "python": sys.version.split()[0]}


def _users_modules(name: str) -> list[ModuleType]:
    """Imported modules beside the user's task, which machines of a cluster need not have: they are sent by value."""
    where = name.rpartition(":")[0]
    if not where:
        return []
    folders = [Path.cwd().resolve()]
    if where.endswith(".py"):
        folders.append(Path(where).expanduser().resolve().parent)
    elif file := getattr(sys.modules.get(where), "__file__", None):
        folders.append(Path(file).resolve().parent)
    installed = [Path(path).resolve() for path in sysconfig.get_paths().values()]
    installed.append(Path(fallline.__file__).resolve().parent)
    found = []
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not file or not isinstance(module, ModuleType):
            continue
        path = Path(file).resolve()
        if any(path.is_relative_to(f) for f in folders) and not any(path.is_relative_to(f) for f in installed):
            found.append(module)
    return found


@contextlib.contextmanager
def _signals_passed_on() -> Iterator[None]:
    """What a signal handler raises inside Ray's compiled code comes out as the cause of a SystemError; it is raised by itself."""
    try:
        yield
    except SystemError as error:
        if error.__cause__ is None:
            raise
        raise error.__cause__ from None


@contextlib.contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Ray puts a handler of SIGTERM in place of the study's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
