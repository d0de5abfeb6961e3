"""What a step needs in memory beyond parameters, gradients and state, and what it keeps between steps.

Counted from the allocation events of torch's profiler, not from the process (VmHWM): the C library keeps freed blocks
resident, so temporaries that fit into them would not show, and a fork would copy what it reuses. The events are exact and
the same every time; memory that compiled code takes from the stack is not among them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from fallline.bench.contenders import Contender
from fallline.bench.shapes import ParameterSet

__all__ = ["Extra", "extra_memory", "trace_memory"]


@dataclass(frozen=True)
class Extra:
    """Bytes per parameter of one contender on one set."""

    set: str
    method: str
    name: str
    state: float  # declared
    peak: float  # more than before the step, at the worst moment of a steady step
    kept: float  # between steps besides parameters and state: gradients that zero_grad() leaves, scratch
    error: str = ""


def extra_memory(which: ParameterSet, contender: Contender) -> Extra:
    """Trace a few steps of a fresh optimizer; another one has compiled before, so that compiling is not counted."""
    state = 4.0 * contender.slots
    try:
        slopes = [torch.ones(s) for s in which.shapes]
        _steps(contender, slopes)
        marks = trace_memory(lambda: _steps(contender, slopes))
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return Extra(which.name, contender.method, contender.name, state, 0.0, 0.0, text)
    before, peak, _ = marks["step"]
    _, _, left = marks["clear"]
    held = left / which.numel - 4.0 - state
    return Extra(which.name, contender.method, contender.name, state, (peak - before) / which.numel, max(held, 0.0))


def _steps(contender: Contender, slopes: Sequence[Tensor]) -> Any:
    """Two steps, the second one marked; returns what has to stay alive until the trace ends."""
    params = [s.clone().requires_grad_() for s in slopes]
    optimizer = contender.build(params)
    optimizer.zero_grad()
    for mark in ("first ", ""):
        torch.autograd.backward([torch.dot(p.view(-1), s.view(-1)) for p, s in zip(params, slopes, strict=True)])
        with record_function(f"{mark}step"):
            optimizer.step()
        with record_function(f"{mark}clear"):
            optimizer.zero_grad()
    return params, optimizer


def trace_memory(action: Callable[[], Any]) -> Mapping[str, tuple[int, int, int]]:
    """Bytes allocated since the start, (before, at most during, after) each ``record_function`` mark of an action."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        alive = action()
    del alive
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        trace.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Ev Idx"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]")
    marks = {e["name"]: (e["ts"], e["ts"] + e["dur"]) for e in events if e.get("cat") == "user_annotation"}
    return {name: _during(changes, *span) for name, span in marks.items()}


def _during(changes: Sequence[tuple[float, int, int]], start: float, end: float) -> tuple[int, int, int]:
    level = before = sum(size for when, _, size in changes if when < start)
    peak = before
    for when, _, size in changes:
        if start <= when <= end:
            level += size
            peak = max(peak, level)
    return before, peak, level
