"""Kernels: some consecutive steps of a chain as one function of arrays and numbers, called eagerly or traced and compiled.

A traced step falls into two parts. The *prelude* holds all arithmetic on single numbers (learning rates, bias corrections,
powers of the step count) and runs once for all tensors that share them, in float64. The *body* holds the arithmetic on
arrays and becomes one compiled kernel. Left together, the compiler would compute ``1 - b2**t`` anew for every element:
measured, five times the time of the whole step.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, fx

from fallline.core.loops import CPU, Dialect
from fallline.core.native import compiler
from fallline.core.storage import Storage, compute_dtype
from fallline.core.transform import Transform, hyper_fields, named_steps, static_fields
from fallline.core.types import At, Reach, State
from fallline.core.units import Arrays
from fallline.core.words import emit

__all__ = [
    "Kernel",
    "Numbers",
    "Segment",
    "advance",
    "as_number",
    "compiler_available",
    "decoded",
    "hypers_of",
    "measure",
    "segments",
    "settled",
    "trace_limit",
    "trace_loops",
    "usable",
]

Named: TypeAlias = tuple[tuple[str, Transform], ...]
Structure: TypeAlias = tuple[tuple[str, type[Transform], tuple[Any, ...]], ...]
Numbers: TypeAlias = dict[str, Any]
"""``t``, the step from 1, and where they exist ``loss``, ``total`` (or ``total_0``, ``total_1`` ...) and ``ok`` (a flag: false
leaves everything as it is); where ``t`` lies on a device, ``calls``, which kernels do not take."""


@dataclass(frozen=True)
class Segment:
    """Consecutive steps of a chain between two GROUP steps; the first starts from the gradient, the last moves the parameter."""

    named: Named
    first: bool
    last: bool
    storage: Storage

    @cached_property
    def reach(self) -> Reach:
        """How far its steps look. A GROUP step may look at its whole tensor, besides the total."""
        reaches = [Reach.TENSOR if s.reach == Reach.GROUP else s.reach for _, s in self.named]
        return max(reaches, default=Reach.ELEMENT)

    @cached_property
    def compiles(self) -> bool:
        """Whether it may be compiled."""
        return all(step.compiles for _, step in self.named)

    @cached_property
    def slots(self) -> dict[str, bool]:
        """Names of its slots, and whether they have a sign."""
        return {f"{key}.{slot}": slot not in step.nonnegative for key, step in self.named for slot in step.slots}

    @cached_property
    def structure(self) -> Structure:
        """What a kernel is compiled for: everything but the values of hyperparameters."""
        return tuple((key, type(s), tuple(getattr(s, f) for f in static_fields(s))) for key, s in self.named)

    @cached_property
    def hypers(self) -> list[Any]:
        return hypers_of(self.named)

    def touched(self, arrays: Arrays) -> Arrays:
        """The entries of ``arrays`` that this segment reads or writes."""
        keys = {part for slot in self.slots for part in self.storage.parts(slot)} | {"p", "g", "compensation", "stream"}
        keys |= {"u"} if not (self.first and self.last) else set()
        return {k: v for k, v in arrays.items() if k in keys}

    def sliceable(self, arrays: Arrays) -> bool:
        """Whether every array is as long as the parameter or a single number, so that a piece can be taken by itself."""
        if "stream" in arrays:  # random numbers go by an element's place in the whole
            return False
        return all(v.dim() == 0 or v.shape == arrays["p"].shape for v in arrays.values())


def segments(steps: Sequence[Transform], storage: Storage) -> list[Segment]:
    """The chain, cut before every step of reach GROUP; a GROUP step that opens the chain is preceded by nothing."""
    named = tuple(named_steps(steps))
    cuts = [i for i, (_, step) in enumerate(named) if step.reach == Reach.GROUP]
    bounds = [0, *cuts, len(named)]
    pairs = list(zip(bounds, bounds[1:], strict=False))
    return [Segment(named[a:b], a == 0, b == len(named), storage) for a, b in pairs]


def hypers_of(named: Named) -> list[Any]:
    """The values of the hyperparameters of some steps, in the order in which a trace takes them."""
    return [getattr(step, f) for _, step in named for f in hyper_fields(step)]


def apply(named: Named, u: Tensor, at: At, slots: State) -> tuple[Tensor, State]:
    """The maths, pure: (update, slots) -> (update, new slots)."""
    new: State = {}
    for key, step in named:
        u, changed = step.update(u, at, **{s: slots[f"{key}.{s}"] for s in step.slots})
        new.update({f"{key}.{s}": value for s, value in changed.items()})
    return u, new


def advance(segment: Segment, arrays: Arrays, numbers: Numbers, guard: bool = True, batched: bool = False) -> Arrays:
    """All that a segment writes, as new arrays; pure. ``batched`` arrays have a leading dimension of tensors.

    With ``guard``, an element whose own new value or state would not be finite keeps its old ones.
    """
    if batched:
        return torch.vmap(lambda one: advance(segment, one, numbers, guard))(arrays)
    u, at, old = decoded(segment, arrays, numbers)
    return settled(segment, arrays, numbers, *apply(segment.named, u, at, old), at, old, guard)


def decoded(segment: Segment, arrays: Arrays, numbers: Numbers) -> tuple[Tensor, At, State]:
    """What the maths reads, in compute precision: the update so far, where we stand, the slots."""
    storage = segment.storage
    p, g = storage.load(arrays), arrays["g"].to(compute_dtype(arrays["p"].dtype))
    u = arrays["u"] if "u" in arrays and not segment.first else g
    old = {slot: storage.decode(slot, arrays, signed) for slot, signed in segment.slots.items()}
    totals = tuple(x for key, x in numbers.items() if key.startswith("total_"))
    return u, At(p, g, numbers["t"], numbers.get("loss"), numbers.get("total"), totals, numbers.get("calls")), old


def settled(
    segment: Segment, arrays: Arrays, numbers: Numbers, u: Tensor, new: State, at: At, old: State, guard: bool = True
) -> Arrays:
    """What is written once the maths has found the next update and slots."""
    storage, p = segment.storage, at.p
    u = u.to(p.dtype)  # of a 0-d parameter and float64 numbers, float64
    # What came in may be what a slot becomes; arrays are written one after the other, so it needs a copy.
    given = (p, arrays.get("u"), *old.values())
    new = {k: v.clone() if any(v is x for x in given) else v.to(old[k].dtype) for k, v in new.items()}
    if guard:
        u, new = _keep_finite(segment, arrays["p"].dtype, p, u, new, old, numbers.get("ok"))
    out = storage.store(arrays, p, u, numbers["t"]) if segment.last else {"u": u}
    for slot, value in new.items():
        out.update(storage.encode(slot, value, arrays, segment.slots[slot], numbers["t"]))
    return out


def _keep_finite(
    segment: Segment, dtype: torch.dtype, p: Tensor, u: Tensor, new: State, old: State, ok: Tensor | None
) -> tuple[Tensor, State]:
    result = p - u if segment.last else u
    state = [v for v in new.values() if v.shape == p.shape and v.is_floating_point()]
    # A sum is finite only if its terms are; one that overflows although they are not is as good as infinite.
    if segment.reach == Reach.ELEMENT:
        moved = fine = _finite(sum(state, result), ok)
    else:  # norms stand between state and parameter: one guard for both would need another pass over everything
        moved, fine = _finite(result, ok), _finite(sum(state, torch.zeros_like(p)), ok)
    if segment.last and torch.finfo(dtype).max < torch.finfo(p.dtype).max:
        moved = moved & (result.abs() <= torch.finfo(dtype).max)  # float16 ends at 65504
    kept = {k: torch.where(fine if v.shape == p.shape else _finite(v, ok), v, old[k]) for k, v in new.items()}
    return torch.where(moved, u, torch.zeros_like(u)), kept


def _finite(x: Tensor, ok: Tensor | None) -> Tensor:
    finite = x.abs() <= torch.finfo(x.dtype).max if x.is_floating_point() else torch.ones_like(x, dtype=torch.bool)
    return finite if ok is None else finite & ok


# -- tracing and compiling ----------------------------------------------------------------------------------------------


class Kernel:
    """A segment, traced for arrays like the given ones, its body compiled. Calling it writes its results in place."""

    def __init__(self, segment: Segment, arrays: Arrays, numbers: Numbers, batched: bool) -> None:
        self.keys, self.known = tuple(arrays), tuple(numbers)
        storage, rows = segment.storage, _rows(segment, arrays)
        traced = _of_values(segment, self.keys, self.known, batched, rows)
        matrix = segment.reach >= Reach.MATRIX
        # A MATRIX step may branch on shapes, so each shape has its own kernel.
        mode: Literal["fake", "symbolic"] = "fake" if matrix else "symbolic"
        # A tracer knows tensors by identity: two equal numbers that are one cached tensor would become one input.
        given = [as_number(x).clone() for x in numbers.values()]
        hypers = [as_number(h).clone() for h in segment.hypers]
        from torch.fx.experimental.proxy_tensor import make_fx  # here, because it takes a second

        with torch.no_grad():
            graph = make_fx(traced, tracing_mode=mode)(list(arrays.values()), given, hypers)
        self._lone = tuple(k for k, v in arrays.items() if v.dim() == 0)
        self._wide = tuple(k for k, v in arrays.items() if v.dim() > 0)
        self._prelude, body, self._settled, computed = _split(graph, compute_dtype(arrays["p"].dtype))
        # Inductor (torch 2.13) passes 0-d float64 inputs on the CPU by value and would lose what is written to them; and
        # where reductions of several tensors share a loop, writing in place fails to compile (KeyError in get_read_expr).
        self._returned = tuple(k for k in computed if k in self._lone or batched)
        label = "fallline_" + "_".join(key for key, _, _ in segment.structure)
        self._run = _compiled(body, self._wide, computed, self._returned, label, dynamic=not matrix)
        if not matrix:
            scales = {part for slot in segment.slots for part in storage.parts(slot)[1:]}
            self._compile_for_length(arrays, given, hypers, storage, scales)

    def _compile_for_length(
        self, arrays: Arrays, given: list[Tensor], hypers: list[Tensor], storage: Storage, scales: set[str]
    ) -> None:
        """Compile on long arrays: the compiler would leave out the threads if the first tensor it met were short."""
        sizes = {2: (64, LONG // 64), 1: (64,)} if arrays["p"].dim() == 2 else {1: (LONG,)}
        shapes = {k: sizes.get(arrays[k].dim(), arrays[k].shape) for k in self._wide}
        shapes |= {k: (-(-LONG // storage.block),) for k in scales & shapes.keys() if storage.block is not None}
        wide = [torch.zeros(shapes[k]).to(arrays[k]) for k in self._wide]
        crossing, _ = self._prelude(*[arrays[k] for k in self._lone], *given, *hypers)
        self._run(wide, list(crossing))

    @staticmethod
    def of(segment: Segment, arrays: Arrays, numbers: Numbers, batched: bool) -> Kernel:
        """The kernel for a segment on such arrays: traced once, whatever the hyperparameters and lengths."""
        matrix = segment.reach >= Reach.MATRIX
        # a traced step has settled which of its reshapes are views, so strides belong to a shape
        kinds = tuple((k, v.dtype, v.device, (v.shape, v.stride()) if matrix else v.dim()) for k, v in arrays.items())
        place = (segment.structure, segment.first, segment.last, segment.storage, _rows(segment, arrays))
        key = (*place, kinds, tuple(numbers), batched)
        if key not in _KERNELS:
            _KERNELS[key] = Kernel(segment, arrays, numbers, batched)
        return _KERNELS[key]

    def __call__(self, arrays: Arrays, numbers: Numbers, hypers: list[Tensor], memo: dict[Any, Any]) -> None:
        """Advance ``arrays`` in place. ``memo`` keeps the prelude's numbers for the next tensors that share them."""
        key = (id(self), id(hypers), numbers["t"])
        known = None if self._lone else memo.get(key)
        if known is None:
            given = [as_number(numbers[k]) for k in self.known]
            known = self._prelude(*[arrays[k] for k in self._lone], *given, *hypers)
            memo[key] = known
        crossing, settled = known
        returned = self._run([arrays[k] for k in self._wide], list(crossing))
        for name, value in zip((*self._settled, *self._returned), (*settled, *returned), strict=True):
            arrays[name].copy_(value)


def _of_values(
    segment: Segment, keys: Sequence[str], known: Sequence[str], batched: bool = False, rows: int | None = None
) -> Callable[[list[Tensor], list[Tensor], list[Tensor]], dict[str, Tensor]]:
    """``advance`` as a function of nothing but tensors: arrays, numbers, hyperparameters."""
    structure = segment.structure

    def traced(values: list[Tensor], given: list[Tensor], hypers: list[Tensor]) -> dict[str, Tensor]:
        left = iter(hypers)
        named = tuple((key, _rebuilt(kind, statics, left)) for key, kind, statics in structure)
        here = Segment(named, segment.first, segment.last, segment.storage)
        ours, theirs = dict(zip(keys, values, strict=True)), dict(zip(known, given, strict=True))
        if rows is None:
            return advance(here, ours, theirs, batched=batched)
        shaped = {k for k, v in ours.items() if v.shape == ours["p"].shape}
        out = advance(here, {k: v.view(-1, rows) if k in shaped else v for k, v in ours.items()}, theirs)
        return {k: v.view(-1) if k in shaped else v for k, v in out.items()}

    return traced


def _rebuilt(kind: type[Transform], statics: tuple[Any, ...], hypers: Iterator[Tensor]) -> Transform:
    fields: dict[str, Any] = {f: next(hypers) for f in kind._hypers}
    fields.update(zip(kind._statics, statics, strict=True))
    return kind(**fields)


def trace_loops(
    segment: Segment,
    arrays: Arrays,
    known: Sequence[str],
    totals: bool = False,
    dialect: Dialect = CPU,
) -> Any:
    """What a segment does to a tensor, as loops; or, with ``totals``, what the GROUP step that opens it measures.

    Raises:
        NotExpressible: for a step that loops have no words for.
    """
    key, first = segment.named[0]
    named = segment.named[:1] if totals else segment.named
    advanced = _of_values(segment, tuple(arrays), tuple(known))

    def measured(values: list[Tensor], given: list[Tensor], hypers: list[Tensor]) -> Tensor:
        step = _rebuilt(type(first), segment.structure[0][2], iter(hypers))
        ours, theirs = dict(zip(arrays, values, strict=True)), dict(zip(known, given, strict=True))
        return _measured(key, step, segment.storage, ours, theirs, False)

    hypers = [as_number(h).clone() for h in hypers_of(named)]
    given = [as_number(1.0).clone() for _ in known]
    return _looped(measured if totals else advanced, arrays, given, hypers, totals, dialect)


def trace_limit(dtype: torch.dtype, dialect: Dialect = CPU) -> Any:
    """How many entries ``g`` of a tensor are not at most ``limit`` in size, as loops."""
    arrays = {"g": torch.zeros(64, dtype=dtype)}

    def beyond(values: list[Tensor], given: list[Tensor], _: list[Tensor]) -> Tensor:
        size = values[0].to(compute_dtype(dtype)).abs()
        return torch.where(size <= given[0], 0.0, 1.0).to(size.dtype).sum()

    return _looped(beyond, arrays, [as_number(1.0).clone()], [], totals=True, dialect=dialect)


def _looped(
    function: Callable[[list[Tensor], list[Tensor], list[Tensor]], Any],
    arrays: Arrays,
    given: list[Tensor],
    hypers: list[Tensor],
    totals: bool,
    dialect: Dialect = CPU,
) -> Any:
    from torch._decomp import core_aten_decompositions
    from torch.fx.experimental.proxy_tensor import make_fx  # here, because it takes a second

    table = dict(cast(Any, core_aten_decompositions()))
    for op in KEPT_WHOLE:
        table.pop(op, None)
    with torch.no_grad():
        traced = make_fx(function, tracing_mode="symbolic", decomposition_table=table)
        graph = traced(list(arrays.values()), given, hypers)
    return emit(graph, arrays, len(given) + len(hypers), totals, dialect)


KEPT_WHOLE = {torch.ops.aten.lerp.Tensor, torch.ops.aten.lerp.Scalar}
"""Operations of which the loops know a better form than their decomposition."""

_KERNELS: dict[Any, Kernel] = {}

LONG = 2**18
"""Elements of the arrays that kernels are compiled for; they run on any number."""


def _rows(segment: Segment, arrays: Arrays) -> int | None:
    """The block of the storage's format, where a flat array consists of whole ones."""
    block, p = segment.storage.block, arrays["p"]
    coded = any(v.dtype is torch.uint8 for v in arrays.values())
    return block if block is not None and coded and p.dim() == 1 and p.numel() % block == 0 else None


def _split(
    graph: fx.GraphModule, precision: torch.dtype
) -> tuple[Any, fx.GraphModule, tuple[str, ...], tuple[str, ...]]:
    """(prelude, body, names that the prelude settles, names that the body computes).

    The prelude takes all 0-d inputs and returns the numbers that the body needs, then those that are results.
    """
    nodes = list(graph.graph.nodes)
    (end,) = (n for n in nodes if n.op == "output")
    numeric: dict[fx.Node, None] = {}
    for node in nodes:
        value = node.meta.get("val")
        single = isinstance(value, Tensor) and value.dim() == 0 and node.op in ("placeholder", "call_function")
        if (
            single
            and all(a in numeric for a in node.all_input_nodes)
            and (node.op == "placeholder" or node.all_input_nodes)
        ):
            numeric[node] = None
    results = dict(zip(graph._out_spec.context, end.args[0], strict=True))  # type: ignore[union-attr]
    settled = {name: node for name, node in results.items() if node in numeric}
    computed = {name: node for name, node in results.items() if node not in numeric}

    prelude, body = fx.Graph(), fx.Graph()
    first = {n: prelude.placeholder(n.name) for n in numeric if n.op == "placeholder"}
    for node in numeric:
        if node.op == "call_function":
            first[node] = prelude.node_copy(node, first.__getitem__)
    second = {n: body.placeholder(n.name) for n in nodes if n.op == "placeholder" and n not in numeric}
    handed: dict[tuple[Any, ...], tuple[fx.Node, fx.Node]] = {}  # what -> (in the prelude, in the body)

    def hand(node: fx.Node, *change: Any) -> fx.Node:
        """The body's name for a number of the prelude, changed by a call on it if so asked."""
        if (node, *change) not in handed:
            number = prelude.call_function(change[0], (first[node], *change[1:])) if change else first[node]
            if node.meta["val"].dtype is torch.float64 and precision is not torch.float64:
                number = prelude.call_function(torch.ops.aten._to_copy.default, (number,), {"dtype": precision})
            elif node.op == "placeholder" and not change:  # the compiler guards against inputs that are one tensor
                number = prelude.call_function(torch.ops.aten.clone.default, (number,))
            with body.inserting_before(next(iter(body.nodes))):
                handed[node, *change] = number, body.placeholder(f"number_{len(handed)}")
        return handed[node, *change][1]

    ops = torch.ops.aten
    for node in nodes:
        if node.op not in ("call_function", "get_attr") or node in numeric:
            continue
        args = node.args
        if node.target is ops.div.Tensor and args[1] in numeric:  # times the inverse, which is taken once
            second[node] = body.call_function(ops.mul.Tensor, (second[args[0]], hand(args[1], ops.reciprocal.default)))
        elif node.target is ops.lerp.Tensor and args[2] in numeric and {args[0], args[1]}.isdisjoint(numeric):
            # Both weights are taken once; the compiler's own form chooses between two formulae at every element.
            kept = body.call_function(ops.mul.Tensor, (second[args[0]], hand(args[2], ops.rsub.Scalar, 1)))
            added = body.call_function(ops.mul.Tensor, (second[args[1]], hand(args[2])))
            second[node] = body.call_function(ops.add.Tensor, (kept, added))
        else:
            second[node] = body.node_copy(node, lambda n: hand(n) if n in numeric else second[n])
    body.output(tuple(second[n] for n in computed.values()))
    numbers = list(reversed(handed.values()))  # each was put in front of those before it
    prelude.output((tuple(n for n, _ in numbers), tuple(first[n] for n in settled.values())))
    prelude.eliminate_dead_code()
    body.eliminate_dead_code()
    return fx.GraphModule(graph, prelude), fx.GraphModule(graph, body), tuple(settled), tuple(computed)


def _compiled(
    body: fx.GraphModule,
    wide: tuple[str, ...],
    computed: tuple[str, ...],
    returned: tuple[str, ...],
    label: str,
    dynamic: bool,
) -> Callable[[list[Tensor], list[Tensor]], list[Tensor]]:
    """The body, compiled; it writes arrays in place, apart from those named in ``returned``."""

    def run(arrays: list[Tensor], numbers: list[Tensor]) -> list[Tensor]:
        out = dict(zip(computed, body(*numbers, *arrays), strict=True))
        for key, array in zip(wide, arrays, strict=True):
            if key in out and key not in returned:
                array.copy_(out[key])
        return [out[key] for key in returned]

    return _compile(run, label, dynamic)


def _compile(run: Callable[..., Any], label: str, dynamic: bool) -> Callable[..., Any]:
    # Dynamo's cache (and its limit of recompilations) belongs to the code object, so each structure gets its own.
    code = run.__code__.replace(co_name=label)
    own = types.FunctionType(code, run.__globals__, label, run.__defaults__, run.__closure__)
    compiled: Callable[..., Any] = torch.compile(own, dynamic=dynamic, fullgraph=True)
    return compiled


def measure(segment: Segment, arrays: Arrays, numbers: Numbers, batched: bool, compiled: bool) -> Tensor:
    """What the GROUP step that opens a segment measures on a tensor, or the sum of it over a batch of tensors; 0-d or 1-d."""
    key, step = segment.named[0]
    parts = {part for slot in step.slots for part in segment.storage.parts(f"{key}.{slot}")}
    needed: Arrays = {k: v for k, v in arrays.items() if k in {"p", "g", "u", "compensation", *parts}}
    if not compiled or arrays["p"].numel() < 2 or not (batched or arrays["p"].dim() == 1):
        return _measured(key, step, segment.storage, needed, numbers, batched)
    statics = tuple(getattr(step, f) for f in static_fields(step))
    hypers = [as_number(h) for h in hypers_of(segment.named[:1])]
    given = {k: as_number(v).clone() for k, v in numbers.items()}
    kinds = tuple(
        (k, v.dtype, v.dim()) for k, v in needed.items()
    )  # each its own code: Dynamo recompiles one 8 times at most
    run = _compiled_measure(key, type(step), statics, segment.storage, batched, kinds)  # type: ignore[arg-type]
    found: Tensor = run(needed, given, hypers)
    return found


def _measured(key: str, step: Transform, storage: Storage, arrays: Arrays, numbers: Numbers, batched: bool) -> Tensor:
    def one(a: Arrays) -> Tensor:
        g = a["g"].to(compute_dtype(a["p"].dtype))
        at = At(storage.load(a), g, numbers["t"], numbers.get("loss"))
        slots = {s: storage.decode(f"{key}.{s}", a, s not in step.nonnegative) for s in step.slots}
        return step.measure(a.get("u", g), at, **slots)

    found: Tensor = torch.vmap(one)(arrays).sum(0) if batched else one(arrays)
    return found


@cache
def _compiled_measure(
    key: str, kind: type[Transform], statics: tuple[Any, ...], storage: Storage, batched: bool, kinds: tuple[Any, ...]
) -> Callable[..., Tensor]:
    def run(arrays: Arrays, numbers: Numbers, hypers: list[Tensor]) -> Tensor:
        return _measured(key, _rebuilt(kind, statics, iter(hypers)), storage, arrays, numbers, batched)

    return _compile(run, f"fallline_measure_{kind.__name__}", dynamic=True)


def as_number(value: Any) -> Tensor:
    """A number as compiled code wants it: 0-d, float64, so that a change never recompiles and ``1 - b2`` loses no digits."""
    if not isinstance(value, Tensor):
        return _number(float(value))
    plain: Tensor = value.detach()
    return plain if plain.dtype in (torch.float64, torch.bool) else plain.to(torch.float64)


@lru_cache(maxsize=1024)
def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@cache
def compiler_available(device: str = "cpu") -> bool:
    """Whether torch.compile can build kernels here: a C++ compiler for the CPU, Triton for CUDA."""
    if device == "cpu":
        return compiler() is not None
    try:
        from torch.utils._triton import has_triton

        return bool(has_triton())
    except ImportError:
        return False


@cache
def usable(device: str) -> bool:
    """compiler_available, said once when it is missing and would have been used."""
    if compiler_available(device):
        return True
    what = "C++ compiler" if device == "cpu" else "Triton"
    warnings.warn(
        f"No {what} found: optimizer steps run eagerly (slower, same numbers). Install one to compile them.",
        stacklevel=2,
    )
    return False
