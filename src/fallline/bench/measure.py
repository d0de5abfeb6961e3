"""Timing steps: every contender alive in one process, one step each a round, so that a slow minute is slow for all.

Only ``step()`` and the ``zero_grad()`` after it are timed. How the gradient got there is not, but it decides what they
have to do, so it is done in the two ways there are:

``loop``:  a real backward pass (of a linear loss, the cheapest there is) writes into whatever ``.grad`` is.
``given``: fresh tensors are assigned to ``.grad``; an optimizer that keeps gradients in a buffer has to gather them.
"""

from __future__ import annotations

import gc
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fallline.bench.contenders import REFERENCE, Contender, flops_of, for_hidden_matrices, held_floats
from fallline.bench.rows import Path as GradientPath
from fallline.bench.rows import Row
from fallline.bench.shapes import ParameterSet
from fallline.core.errors import FalllineError, InvalidValueError

__all__ = ["available_bytes", "flights", "time_set"]

FLIGHT = 10
"""Contenders that are timed side by side, besides the reference; a longer round would let the machine drift within it."""

MIN_ROUNDS = 2

FLOOR_BYTES = 256 * 2**20
"""Size of each buffer whose copying is the memory floor: far larger than any cache."""

CPU = torch.device("cpu")

_FLOAT = 4

_GEMM = 1024


def time_set(
    which: ParameterSet,
    contenders: Sequence[Contender],
    rounds: int,
    seconds: float = math.inf,
    say: Callable[[str], None] = lambda text: None,
    device: torch.device = CPU,
) -> tuple[list[Row], list[str]]:
    """Time all contenders on one set: (their rows, what was left out and why). No new round, after the second, begins
    when the set has taken so many seconds of rounds."""
    groups, left_out = flights(which, contenders, available_bytes(device))
    rows: list[Row] = []
    for k, group in enumerate(groups):
        say(f"{which.name}, {k + 1} of {len(groups)}")
        for row in _Flight(which, group, device).run(rounds, seconds / len(groups)):
            if k == 0 or (row.method, row.by, row.layout) != (REFERENCE.method, REFERENCE.by, REFERENCE.layout):
                rows.append(row)
    return rows, left_out


def flights(
    which: ParameterSet, contenders: Sequence[Contender], room: int | None
) -> tuple[list[list[Contender]], list[str]]:
    """Contenders in groups that fit into memory together with the reference, and a line for each that never does."""
    unit = _FLOAT * which.numel
    shared = 2 * FLOOR_BYTES + (1 + 4) * unit  # the floor's buffers; the given gradients and one step's temporaries

    def need(c: Contender) -> float:
        return (2 + max(c.slots, held_floats(c.method))) * unit  # parameter, gradient, state

    spare = None if room is None else room - shared - need(REFERENCE)
    groups: list[list[Contender]] = [[]]
    left_out, used = [], 0.0
    for c in contenders:
        if spare is not None and need(c) > spare:
            left_out.append(f"{c.name} {c.method} on {which.name}: needs {need(c) / 1e9:.1f} GB beside the reference")
            continue
        if len(groups[-1]) == FLIGHT or (spare is not None and used + need(c) > spare):
            groups.append([])
            used = 0.0
        groups[-1].append(c)
        used += need(c)
    return groups, left_out


def available_bytes(device: torch.device = CPU) -> int | None:
    """Memory that can be had, with a reserve; None where the system does not say."""
    if device.type == "cuda":
        return int(0.85 * torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None
    return int(0.85 * 1024 * kilobytes)


@dataclass
class _Live:
    """A contender at work: its copy of the parameters, its optimizer, its times."""

    contender: Contender
    params: list[Tensor] = field(default_factory=list)
    optimizer: Any = None
    first: float = 0.0  # seconds to build and to take the first step
    keeps: bool = False  # whether zero_grad() leaves tensors in .grad
    error: str = ""
    times: list[float] = field(default_factory=list)
    host: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)


class _Flight:
    """Contenders timed together, the reference first."""

    def __init__(self, which: ParameterSet, contenders: Sequence[Contender], device: torch.device = CPU) -> None:
        self.which, self.device = which, device
        self.contenders = [REFERENCE, *contenders]
        self.flops = {
            c.method: flops_of(c.method, which.hidden if for_hidden_matrices(c.method) else which.shapes)
            for c in contenders
        }
        self.lead = None if device.type == "cpu" else torch.ones(8 * _GEMM, 8 * _GEMM, device=device)
        random = torch.Generator(device).manual_seed(0)
        # Serve as gradients and as start; shared, because nobody gets them to write into.
        self.slopes = [torch.randn(s, generator=random, device=device).mul_(0.01) for s in which.shapes]

    def run(self, rounds: int, seconds: float) -> list[Row]:
        """A row for each contender on the loop, and on given gradients for those that it makes a difference to."""
        live = [self._start(c) for c in self.contenders]
        if live[0].error:
            raise InvalidValueError(
                f"{REFERENCE.name} AdamW failed: {live[0].error}. Every time is divided by its time. Update torch."
            )
        rows = self._rounds(live, rounds, seconds / 2, "loop")
        keeping = [one for one in live if one.keeps and not one.error]
        if keeping:
            rows += self._rounds([live[0], *keeping], rounds, seconds / 2, "given")[1:]
        return rows

    def _start(self, contender: Contender) -> _Live:
        """Build and take the first step, which may compile, and one more."""
        one = _Live(contender)
        try:
            with _deadline(contender.first_call_limit):
                one.params = [s.clone().requires_grad_() for s in self.slopes]
                start = time.perf_counter()
                one.optimizer = contender.build(one.params)
                one.optimizer.zero_grad()
                built = time.perf_counter() - start
                self._attach(one, "loop")
                one.first = built + _seconds(one.optimizer.step, self.device)
            one.optimizer.zero_grad()
            one.keeps = any(p.grad is not None for p in one.params)
            self._measure(one, "loop")
        except Exception as error:  # whatever another library raises is its row, not our end
            _fail(one, error)
        return one

    def _rounds(self, live: list[_Live], rounds: int, seconds: float, path: GradientPath) -> list[Row]:
        for one in live:
            one.times, one.host, one.backward = [], [], []
            if path == "given":  # the first of its kind; the loop's was in _start
                self._try(one, path)
        copy, in_place, gemm = [], [], []
        buffers = [torch.ones(FLOOR_BYTES // _FLOAT, device=self.device) for _ in range(2)]
        gc.collect()
        with _no_collection():
            _bandwidths(*buffers)
            started = time.perf_counter()
            for k in range(rounds):
                if k >= MIN_ROUNDS and time.perf_counter() - started > seconds:
                    break
                speeds = _bandwidths(*buffers)
                copy.append(speeds[0])
                in_place.append(speeds[1])
                if any(self.flops.values()):
                    gemm.append(_gemm_rate(self.device))
                turn = k % len(live)  # each follows the floor, which empties the caches, once in a while
                for one in (*live[turn:], *live[:turn]):
                    if one.error:
                        continue
                    taken = self._try(one, path)
                    if taken is not None:
                        one.backward.append(taken[0])
                        one.times.append(taken[1])
                        one.host.append(taken[2])
        reference = tuple(live[0].times)
        series: dict[str, Any] = {
            "reference": reference,
            "copy": tuple(copy),
            "in_place": tuple(in_place),
            "gemm": tuple(gemm),
        }
        return [self._row(one, path, series) for one in live]

    def _row(self, one: _Live, path: GradientPath, series: dict[str, Any]) -> Row:
        c = one.contender
        path = path if one.keeps else "both"
        row = Row(
            self.which.name, self.which.numel, c.method, c.by, c.layout, path, c.bytes, error=one.error,
            guard_bytes=c.guard_bytes, device=self.device.type,
        )  # fmt: skip
        if one.error:
            return row
        return replace(
            row,
            first=one.first,
            times=tuple(one.times),
            host=tuple(one.host) if self.device.type != "cpu" else (),
            backward=tuple(one.backward),
            flops=self.flops.get(c.method, 0.0),
            **series,
        )

    def _try(self, one: _Live, path: GradientPath) -> tuple[float, float, float] | None:
        try:
            return self._measure(one, path)
        except Exception as error:
            _fail(one, error)
            return None

    def _measure(self, one: _Live, path: GradientPath) -> tuple[float, float, float]:
        """(seconds of attaching gradients, seconds of the step and of clearing them, seconds until the host has asked for it)."""
        asked = 0.0

        def step() -> None:
            nonlocal asked
            start = time.perf_counter()
            one.optimizer.step()
            one.optimizer.zero_grad()
            asked = time.perf_counter() - start

        attached = _seconds(lambda: self._attach(one, path), self.device)
        return attached, _seconds(step, self.device, self.lead), asked

    def _attach(self, one: _Live, path: GradientPath) -> None:
        if path == "given":
            for p, slope in zip(one.params, self.slopes, strict=True):
                p.grad = slope.clone()
        else:
            terms = [torch.dot(p.view(-1), s.view(-1)) for p, s in zip(one.params, self.slopes, strict=True)]
            torch.autograd.backward(terms)


def _fail(one: _Live, error: Exception) -> None:
    text = str(error) if isinstance(error, FalllineError) else f"{type(error).__name__}: {error}"
    one.error = " ".join(text.split())[:300] or type(error).__name__
    one.params, one.optimizer = [], None


def _seconds(action: Callable[[], Any], device: torch.device = CPU, lead: Tensor | None = None) -> float:
    """Seconds of an action; on a GPU, from when its work begins there until it is done. ``lead``, a large matrix, keeps the GPU busy
    with a product while the host asks for the work, as the backward pass does in training."""
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        if lead is not None:
            lead @ lead
        begin.record()
        action()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _bandwidths(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Bytes a second of a plain copy and of an in-place product; both read and write 4 bytes an element."""
    size = 2 * _FLOAT * a.numel()
    return size / _seconds(lambda: b.copy_(a), a.device), size / _seconds(lambda: b.mul_(1.0), a.device)


def _gemm_rate(device: torch.device) -> float:
    """Operations a second of one product of square matrices, large enough to be as fast as any."""
    size = _GEMM if device.type == "cpu" else 8 * _GEMM
    a = torch.rand(size, size, device=device)  # a GPU is faster on equal numbers
    return 2 * size**3 / _seconds(lambda: a @ a, device)


@contextmanager
def _no_collection() -> Iterator[None]:
    """No pause of Python's cycle collector inside a measurement."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextmanager
def _deadline(seconds: float | None) -> Iterator[None]:
    """Interrupt what takes longer, where signals allow it (the main thread of a Unix process)."""
    if seconds is None or not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise TimeoutError(f"the first step took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
