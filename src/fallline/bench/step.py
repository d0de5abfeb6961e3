"""``fallline bench step``: from names to a plan, from a plan to rows, from rows to a file."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch

from fallline.bench.contenders import REFERENCE, Contender, others, ours
from fallline.bench.measure import time_set
from fallline.bench.memory import Extra, extra_memory
from fallline.bench.peers import peers
from fallline.bench.rows import Row
from fallline.bench.shapes import SETS, ParameterSet, parameter_sets
from fallline.bench.targets import judge
from fallline.core.errors import InvalidValueError, unknown
from fallline.core.execute import FUSE_MODES, UNCOMPILED, compiler_available
from fallline.core.method import METHODS
from fallline.lab.entries import STEP_METHODS

__all__ = [
    "Plan",
    "Result",
    "check_device",
    "load",
    "make_plan",
    "measure_memory",
    "num_threads",
    "run",
    "save",
    "start_compiler",
]

DEFAULT_METHODS = ("adamw", "sgd", "lion", "lamb", "lars")
QUICK_SETS = ("small", "large", "gpt2")
QUICK_METHODS = ("adamw", "sgd", "lion", "lamb")
QUICK_LAYOUTS = ("auto", "blocks")
QUICK_SECONDS = 7.0
SLOW_EAGER = 50_000_000
"""Parameters from which a quick run leaves out uncompiled layouts: a step of theirs takes seconds."""


@dataclass(frozen=True)
class Plan:
    """What is timed, validated."""

    sets: tuple[ParameterSet, ...]
    methods: tuple[str, ...]
    layouts: tuple[str, ...]
    peers: bool = False
    quick: bool = False
    rounds: int | None = None
    device: str = "cpu"

    def rounds_of(self, which: ParameterSet) -> int:
        return self.rounds or (which.quick_rounds if self.quick else which.rounds)

    @property
    def seconds(self) -> float:
        """For the rounds of one set."""
        return QUICK_SECONDS if self.quick and self.rounds is None else math.inf

    def contenders(self, which: ParameterSet) -> tuple[list[Contender], list[str]]:
        """Who is timed on a set, and lines on who is not: torch's foreach goes with what needs no compiler, the rest of others with peers."""
        layouts, left_out = self.layouts, []
        if self.quick and which.numel >= SLOW_EAGER and "auto" in layouts:
            slow = [x for x in layouts if x in UNCOMPILED]
            layouts = tuple(x for x in layouts if x not in slow)
            left_out = [f"{x} on {which.name}: takes seconds a step, and this is a quick run" for x in slow]
        foreign = (
            ("fused", "foreach", "for-loop") if self.peers else ("foreach",) if set(UNCOMPILED) & set(layouts) else ()
        )
        found = ours(self.methods, layouts, which) + others(self.methods, foreign)
        others_found, other_work = peers(self.methods, which) if self.peers else ([], [])
        return found + others_found, left_out + other_work


def make_plan(
    sets: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    layouts: Sequence[str] | None = None,
    *,
    peers: bool = False,
    quick: bool = False,
    rounds: int | None = None,
    device: str = "cpu",
) -> Plan:
    """Check every name; None takes the default, a shorter one if quick, and ``all`` takes everything there is."""
    check_device(device)
    usual = tuple(name for name in SETS if device != "cpu" or name != "billion")
    chosen = parameter_sets(_every(sets, SETS, QUICK_SETS if quick else usual))
    names = _every(methods, METHODS, QUICK_METHODS if quick else DEFAULT_METHODS)
    solvers = [name for name in names if name in STEP_METHODS]
    if solvers:
        raise InvalidValueError(
            f"bench step got {', '.join(solvers)}, a second-order solver. Expected a method that steps on the gradients it is given: a solver's "
            f"time is in its passes through a model, of which there is none here. See docs/second_order.md for it in forward and backward passes, "
            f"or its seconds in `fallline compare`."
        )
    asking = [name for name in names if not _steps_on_gradients(name)]  # a misspelt name is an error now
    if methods is not None and list(methods) == ["all"]:
        names = [name for name in names if name not in asking]
    elif asking:
        raise InvalidValueError(
            f"bench got {', '.join(asking)}, which evaluates gradients elsewhere. Expected methods that step on the gradients they are "
            f"given, since there is no model here. Leave it out, or see its cost in `fallline compare`."
        )
    modes = _every(layouts, FUSE_MODES, tuple(m for m in QUICK_LAYOUTS if m in FUSE_MODES) if quick else FUSE_MODES)
    for mode in modes:
        if mode not in FUSE_MODES:
            raise unknown("fuse mode", mode, FUSE_MODES)
    if rounds is not None and rounds < 1:
        raise InvalidValueError(f"bench got rounds={rounds}. Expected at least 1. Leave --rounds out for the default.")
    return Plan(tuple(chosen), tuple(names), tuple(modes), peers, quick, rounds, device)


def check_device(device: str) -> None:
    """Raise unless it is the CPU or a GPU that torch can use."""
    try:
        usable = torch.zeros(1, device=device).device.type in ("cpu", "cuda")
        said = ""
    except (RuntimeError, AssertionError) as error:
        usable, said = False, f", of which torch says {str(error).splitlines()[0].rstrip('.')!r}"
    if not usable:
        raise InvalidValueError(
            f"bench got device={device!r}{said}. Expected cpu, or cuda where torch finds a GPU. Look at torch.cuda.is_available()."
        )


def _steps_on_gradients(name: str) -> bool:
    return not METHODS[name]().needs - {"loss"}


def _every(given: Sequence[str] | None, known: Any, default: Sequence[str]) -> list[str]:
    names = list(default if given is None else known if list(given) == ["all"] else given)
    return list(dict.fromkeys(names))


@dataclass(frozen=True)
class Result:
    """A whole run: where and when, and every row with every round."""

    about: Mapping[str, Any]
    rows: tuple[Row, ...]
    left_out: tuple[str, ...] = ()
    memory: tuple[Extra, ...] = field(default=())


def run(plan: Plan, say: Callable[[str], None] = lambda text: None) -> Iterator[tuple[list[Row], list[str]]]:
    """Time set after set, yielding the rows of each and what was left out."""
    for which in plan.sets:
        contenders, left_out = plan.contenders(which)
        rows, too_large = time_set(
            which, contenders, plan.rounds_of(which), plan.seconds, say, torch.device(plan.device)
        )
        yield rows, left_out + too_large


def measure_memory(plan: Plan, say: Callable[[str], None] = lambda text: None) -> Iterator[list[Extra]]:
    """Extra memory of every contender, set after set."""
    for which in plan.sets:
        contenders, _ = plan.contenders(which)
        extras = []
        for c in [REFERENCE, *contenders]:
            say(f"{which.name}, {c.name} {c.method}")
            extras.append(extra_memory(which, c))
        yield extras


@contextmanager
def num_threads(threads: int) -> Iterator[None]:
    """Torch's threads for a while."""
    if threads < 1:
        raise InvalidValueError(f"bench got threads={threads}. Expected at least 1. Give as many as there are cores.")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def start_compiler(layouts: Sequence[str], device: str = "cpu") -> Iterator[float | None]:
    """Empty compiler caches for a while, so that first steps are first; the seconds that torch's compiler itself takes to
    start (imports, precompiled headers, once a machine), or None where nothing will compile."""
    if set(layouts) <= set(UNCOMPILED) or not compiler_available(torch.device(device).type):
        yield None
        return
    from torch._inductor.utils import fresh_cache

    with fresh_cache(), TemporaryDirectory() as folder, patch.dict(os.environ, {"FALLLINE_CACHE": folder}):
        start = time.perf_counter()
        torch.compile(lambda x: x + 1.0)(torch.zeros(64, device=device))
        yield time.perf_counter() - start


def save(path: Path, result: Result) -> None:
    """Everything, every round included, as JSON."""
    content = {
        "format": 1,
        "about": dict(result.about),
        "rows": [row.to_dict() for row in result.rows],
        "left_out": list(result.left_out),
        "memory": [vars(extra) for extra in result.memory],
        "targets": [
            {"text": o.target.text, "limit": o.target.limit, "value": o.value, "whose": o.whose, "met": o.met}
            for o in judge(result.rows)
        ],
    }
    try:
        path.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise InvalidValueError(
            f"Cannot write {path}: {error.strerror}. Expected a file in a folder that exists. Give another --json."
        ) from None


def load(path: Path) -> Result:
    """What ``save`` wrote."""
    try:
        content = json.loads(path.read_text())
        rows = tuple(Row.from_dict(entry) for entry in content["rows"])
        memory = tuple(Extra(**entry) for entry in content["memory"])
        return Result(content["about"], rows, tuple(content["left_out"]), memory)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidValueError(
            f"Cannot read {path}: {error}. Expected a file of `fallline bench step --json`. Run it again."
        ) from None
