"""Bundles: all tensors of a group on the CPU, stepped where they lie by one call of native loops.

Nothing is copied: the loops get a table of addresses. State and parameters stay what they are, gradients stay where autograd
has put them.
"""

from __future__ import annotations

import ctypes
import operator
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from fallline.core.kernel import Numbers, Segment, hypers_of, trace_limit, trace_loops
from fallline.core.loops import CPU, Dialect, NotExpressible
from fallline.core.native import build
from fallline.core.storage import compute_dtype
from fallline.core.types import Reach
from fallline.core.units import Leaf, Watch

__all__ = ["NATIVE_DTYPES", "Bundle", "Function", "Kinds", "Plan", "Table", "plan"]

_dtype = operator.attrgetter("dtype")

CHUNK = 2**14
"""Elements that a thread takes at a time."""

ALONE = 2**15
"""Elements of a bundle up to which one thread is faster than waking others."""

NATIVE_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Function:
    """Loops, built and ready to call."""

    dialect: ClassVar[Dialect] = CPU

    def __init__(self, loops: Any, known: tuple[str, ...]) -> None:
        library = build(loops.source)
        if library is None:
            raise NotExpressible("no compiler that works")
        self.loops, self.known = loops, known
        self._run = library.run
        self._run.restype = None

    def __call__(self, table: Table, numbers: Numbers, hypers: Sequence[Any]) -> list[float]:
        """Run on the tensors of a table, in place; returns what is summed over them."""
        values = [float(numbers[k]) for k in self.known] + [float(h) for h in hypers]
        given = (ctypes.c_double * max(1, len(values)))(*values)
        totals = (ctypes.c_double * max(1, self.loops.num_totals))()
        threads = torch.get_num_threads() if table.num_elements > ALONE else 1
        self._run(given, table.addresses(self.loops.keys), *table.shape, totals, ctypes.c_int(threads))
        return list(totals)[: self.loops.num_totals]


class Table:
    """Where the tensors lie, as native code wants to know it."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.num_elements = sum(sizes)
        whole = [t for t, size in enumerate(sizes) if size <= CHUNK]
        split = [
            x
            for t, size in enumerate(sizes)
            if size > CHUNK
            for begin in range(0, size, CHUNK)
            for x in (t, begin, min(CHUNK, size - begin))
        ]
        self._kept = [array("q", part) for part in (sizes, whole, split)]
        count = ctypes.c_int64
        lie = [_address(part) for part in self._kept]
        self.shape = (lie[0], count(len(sizes)), lie[1], count(len(whole)), lie[2], count(len(split) // 3))
        self._columns: dict[str, array[int]] = {}
        self._rows: dict[tuple[str, ...], Any] = {}

    def put(self, key: str, addresses: Sequence[int]) -> None:
        """Where an array of every tensor begins."""
        if key in self._columns:
            self._columns[key][:] = array("q", addresses)  # in place, so that the rows stay valid
        else:
            self._columns[key] = array("q", addresses)

    def addresses(self, keys: tuple[str, ...]) -> Any:
        """The columns of some arrays, in this order."""
        if keys not in self._rows:
            self._rows[keys] = (ctypes.c_void_p * len(keys))(*(_address(self._columns[k]) for k in keys))
        return self._rows[keys]


def _address(values: array[int]) -> ctypes.c_void_p:
    return ctypes.c_void_p(values.buffer_info()[0])


Kinds: TypeAlias = Mapping[str, tuple[torch.dtype, bool]]
"""Arrays as loops know them: the dtype, and whether it is one number for each tensor."""

Plan: TypeAlias = Sequence[tuple[Function | None, Function | None]]
"""For every segment, what measures and what steps."""

_PLANS: dict[Any, Plan | None] = {}


def plan(segments: Sequence[Segment], kinds: Kinds, function: type[Function] = Function) -> Plan | None:
    """How a chain runs on tensors with such arrays (dtype, and whether one number each); None if loops cannot express it."""
    key = (
        function,
        tuple((s.structure, s.first, s.last, s.storage) for s in segments),
        tuple(sorted(kinds.items(), key=str)),
    )
    if key not in _PLANS:
        try:
            _PLANS[key] = _made(segments, kinds, function)
        except NotExpressible:
            _PLANS[key] = None
    return _PLANS[key]


def _made(segments: Sequence[Segment], kinds: Kinds, function: type[Function]) -> Plan:
    if max(segment.reach for segment in segments) >= Reach.MATRIX:
        raise NotExpressible("a step that looks at shapes")
    if not all(step.compiles for segment in segments for _, step in segment.named):
        raise NotExpressible("a step that is not to be compiled")
    samples = {k: torch.zeros(() if lone else (64,), dtype=dtype) for k, (dtype, lone) in kinds.items()}
    samples["u"] = torch.zeros(64, dtype=compute_dtype(samples["p"].dtype))
    found: list[tuple[Function | None, Function | None]] = []
    totals: tuple[str, ...] = ()
    for segment in segments:
        arrays = segment.touched(samples)
        known = ("t", *(["loss"] if any("loss" in step.needs for _, step in segment.named) else []))
        measure = None
        if not segment.first or (segment.named and segment.named[0][1].reach == Reach.GROUP):
            seen = {k: v for k, v in arrays.items() if k != "u" or not segment.first}
            measure = function(trace_loops(segment, seen, known, True, function.dialect), known)
            number = measure.loops.num_totals
            totals = ("total",) if measure.loops.single else tuple(f"total_{i}" for i in range(number))
        step = None
        if segment.named:
            names = (*known, *totals)
            step = function(trace_loops(segment, arrays, names, False, function.dialect), names)
        found.append((measure, step))
    return found


class Bundle:
    """Tensors of one dtype and equal step counts, with the plan that steps them."""

    scattered = False  # as an ELEMENT chain sees it
    way = "native loops"
    function: ClassVar[type[Function]] = Function

    def __init__(self, leaves: Sequence[Leaf], how: Plan, kinds: Kinds) -> None:
        self.leaves, self.plan = list(leaves), how
        self.groups = tuple(dict.fromkeys(group for leaf in self.leaves for group in leaf.groups))
        self.p = self.leaves[0].p
        self.u: list[Tensor] | None = None
        sizes = [leaf.num_elements for leaf in self.leaves]
        self.num_elements = sum(sizes)
        self.steps = torch.stack([leaf.steps for leaf in self.leaves])
        for leaf, view in zip(self.leaves, self.steps.unbind(), strict=True):
            leaf.state["step"] = view
        self._watch = Watch([leaf.state for leaf in self.leaves])
        self._parameters = [leaf.p for leaf in self.leaves]
        self._strides = list(map(Tensor.stride, self._parameters))
        self._gradients: list[Tensor] = []
        self._handed_out = False
        self._table = self._make_table(sizes)
        self._put("p", self._parameters)
        for key in kinds.keys() - {"p", "g"}:
            self._put(key, [leaf.state[key] for leaf in self.leaves])

    def _make_table(self, sizes: Sequence[int]) -> Any:
        return Table(sizes)

    @classmethod
    def prepare(cls, dtype: torch.dtype) -> None:
        """Build what every step of such tensors needs."""
        _counter(cls.function, dtype)  # type: ignore[arg-type]

    def _put(self, key: str, tensors: Sequence[Tensor]) -> None:
        self._table.put(key, list(map(Tensor.data_ptr, tensors)))

    def intact(self) -> bool:
        """Whether the members' state is still what the table points to."""
        return self._watch.intact()

    def give(self, gradients: Sequence[Tensor], ascend: bool) -> None:
        """The gradients of the next step, one for each member, read where they are."""
        if ascend:
            gradients = torch._foreach_neg(list(gradients))
        alike = set(map(_dtype, gradients)) == {self.p.dtype} and list(map(Tensor.stride, gradients)) == self._strides
        if not alike or any(map(Tensor.is_neg, gradients)):
            gradients = [torch.empty_like(p).copy_(g) for p, g in zip(self._parameters, gradients, strict=True)]
        self._replace(gradients)

    def _replace(self, gradients: Sequence[Tensor]) -> None:
        self._gradients = list(gradients)
        self._put("g", self._gradients)

    def release(self) -> None:
        """After a step: hold on to no gradient, nor to what was between segments."""
        self._gradients, self.u = [], None
        if self._handed_out:
            self._handed_out = False
            for leaf in self.leaves:
                leaf.release()

    def each(self) -> list[Leaf]:
        self._handed_out = True
        for leaf, g in zip(self.leaves, self._gradients, strict=True):
            leaf.g = g
        return self.leaves

    def sound(self, limit: float) -> bool:
        """Whether no entry of a gradient is beyond ``limit`` or NaN."""
        return bool(self._num_beyond(limit)[0] == 0)

    def flag(self, limit: float) -> Tensor:
        """The same as a 0-d tensor, which on a device need not be read."""
        return torch.as_tensor(self._num_beyond(limit)[0] == 0, device=self.p.device)

    def _num_beyond(self, limit: float) -> Any:
        count = _counter(self.function, self.p.dtype)  # type: ignore[arg-type]
        return count(self._table, {"limit": limit}, ())

    def replace_gradients(self, clean: Callable[[Tensor], Tensor]) -> None:
        self._replace([clean(g) for g in self._gradients])

    def measure(self, k: int, segment: Segment, numbers: Numbers) -> Tensor:
        """What the GROUP step that opens segment ``k`` measures, summed over the members; 0-d or 1-d."""
        function = self.plan[k][0]
        assert function is not None
        sums = function(self._table, numbers, hypers_of(segment.named[:1]))
        found = torch.as_tensor(sums, dtype=compute_dtype(self.p.dtype), device=self.p.device)
        return found[0] if function.loops.single else found

    def run(self, k: int, segment: Segment, numbers: Numbers) -> None:
        """Segment ``k`` on all members, in place."""
        if not segment.last and self.u is None:
            self.u = [torch.empty_like(leaf.p, dtype=compute_dtype(leaf.p.dtype)) for leaf in self.leaves]
            self._put("u", self.u)
        function = self.plan[k][1]
        assert function is not None
        self._call(function, numbers, segment.hypers)
        if segment.last:  # autograd must see that parameters have changed, as after any in-place operation
            torch.autograd.graph.increment_version(self._parameters)

    def _call(self, function: Function, numbers: Numbers, hypers: Sequence[Any]) -> None:
        if "ok" not in numbers or numbers["ok"]:  # a flag from a device, on which other parameters are
            function(self._table, numbers, hypers)


@cache
def _counter(function: type[Function], dtype: torch.dtype) -> Function:
    """How many entries of all gradients are not at most ``limit`` in size."""
    return function(trace_limit(dtype, function.dialect), ("limit",))
