"""Forked gloo ranks for distributed tests: ranks return values, the parent asserts."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import pickle
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["run_ranks"]


def run_ranks(fn: Callable[..., Any], world_size: int, *args: Any, timeout: float = 60.0) -> list[Any]:
    """``[fn(rank, world_size, *args), ...]``, each in its own forked process of one gloo group.

    Forking costs 0.2 s where spawning imports torch again. What a rank raises is raised here with its traceback; the others
    are then killed, as all are after ``timeout`` seconds. Values come back pickled: return plain tensors, not DTensors.
    """
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in range(world_size):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_rank, args=(theirs, folder, fn, rank, world_size, args), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        try:
            values = _collect(pipes, timeout)
            for process in processes:  # each has sent its value and is about to end
                process.join(2)
            return values
        finally:
            for process in processes:
                process.kill()
                process.join()


def _collect(pipes: list[Connection], timeout: float) -> list[Any]:
    values: dict[int, Any] = {}
    deadline = time.monotonic() + timeout
    while len(values) < len(pipes):
        ready = wait([p for i, p in enumerate(pipes) if i not in values], max(deadline - time.monotonic(), 0))
        if not ready:
            missing = [i for i in range(len(pipes)) if i not in values]
            raise TimeoutError(f"ranks {missing} returned nothing within {timeout} s")
        for pipe in ready:
            rank = pipes.index(pipe)
            try:
                kind, value = pickle.loads(pipe.recv_bytes())
            except EOFError:
                raise RuntimeError(f"rank {rank} died without a word") from None
            if kind == "error":
                raise RuntimeError(f"rank {rank} of {len(pipes)} raised:\n{value}")
            values[rank] = value
    return [values[rank] for rank in range(len(pipes))]


def _rank(pipe: Connection, folder: str, fn: Callable[..., Any], rank: int, world_size: int, args: Any) -> None:
    torch.set_num_threads(1)  # OpenMP's threads do not survive the fork
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/store",
            rank=rank,
            world_size=world_size,
            timeout=datetime.timedelta(seconds=10),
        )
        message = ("value", fn(rank, world_size, *args))
        dist.barrier()  # nobody leaves while another still needs it
        dist.destroy_process_group()
    except BaseException:
        message = ("error", traceback.format_exc())
    try:
        pipe.send_bytes(pickle.dumps(message))
    except Exception:
        pipe.send_bytes(pickle.dumps(("error", traceback.format_exc())))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # no exit handlers of the parent's pytest
