"""What the tests of checkpoints share: bitwise comparison, and a child that is killed while it works."""

import os
import signal
import time

import torch


def bits(value):
    """Comparable, with NaN equal to itself and 0.0 unlike -0.0."""
    if isinstance(value, torch.Tensor):
        data = value.detach().resolve_conj().contiguous().reshape(-1).view(torch.uint8).tolist()
        return (str(value.dtype), tuple(value.shape), data)
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return (type(value).__name__, [bits(item) for item in value])
    return (type(value).__name__, repr(value))


def killed_while(work, moment):
    """Fork a child that does ``work(1)``, ``work(2)``, ..., and SIGKILL it after the first, ``moment`` of its time later."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            n = 0
            while True:
                n += 1
                work(n)
                os.write(theirs, b".")
        finally:
            os._exit(1)
    os.close(theirs)
    start = time.monotonic()
    done = os.read(ours, 1)
    time.sleep(moment * (time.monotonic() - start))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(ours)
    assert done, "the child failed at its first piece of work"
    assert os.WIFSIGNALED(status), "the child ended by itself"
