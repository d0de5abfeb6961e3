"""Loops: a traced segment as C++ that runs over many tensors where they lie, in one call.

Every node of the trace belongs to one of three levels: what depends on numbers alone is computed once in a call, what depends
on a tensor's single numbers or sums once for each tensor, and the rest once for each element. A sum over a tensor ends a
*stage*: the elements that need it wait for the next pass over them. What a later stage needs again is computed again, since a
loop over elements costs what it reads and writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["Loops", "NotExpressible", "emit"]

BLOCK = 1024
"""Elements of a sum that are added in the type of the elements; blocks are added in double."""

C_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.bfloat16: "float",
    torch.bool: "bool",
    torch.int64: "int64_t",
}
"""Values of bfloat16 are held as floats that have been rounded."""

STORED = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "uint16_t"}
"""Arrays that loops can read and write."""


class NotExpressible(Exception):
    """The trace has an operation that loops have no words for; another executor takes it."""


@dataclass(frozen=True)
class Loops:
    """C++ source, and how to call it."""

    source: str
    keys: tuple[str, ...]  # arrays, in the order of the pointer tables
    written: tuple[str, ...]  # those that a call changes
    num_sums: int  # reductions over a tensor
    num_totals: int  # numbers that come back, each summed over all tensors
    single: bool = False  # whether the trace returned one number by itself


@dataclass
class _Value:
    level: int  # CALL, TENSOR or ELEMENT
    stage: int  # the first pass in which it can be known
    dtype: torch.dtype
    text: Callable[[_Stage], str]  # its expression; operands are named through the stage


CALL, TENSOR, ELEMENT = range(3)


@dataclass
class _Reduction:
    kind: str  # sum, amax, amin, any, all
    dtype: torch.dtype
    stage: int
    text: Callable[[_Stage], str]


@dataclass
class _Stage:
    """One pass being written: lines before the loop over elements and in it; every value has one name."""

    emitter: _Emitter
    before: list[str] = field(default_factory=list)
    inside: list[str] = field(default_factory=list)
    names: dict[Any, str] = field(default_factory=dict)
    loaded: set[str] = field(default_factory=set)

    def name(self, node: fx.Node) -> str:
        """The variable that holds a node's value, written on first use."""
        if node not in self.names:
            value = self.emitter.values[node]
            if value.level == CALL:
                self.names[node] = self.emitter.call_name(node)
                return self.names[node]
            text = value.text(self)
            lines = self.inside if value.level == ELEMENT else self.before
            name = f"v{self.emitter.number(node)}"
            lines.append(f"const {C_TYPES[value.dtype]} {name} = {text};")
            self.names[node] = name
        return self.names[node]

    def cast(self, node: fx.Node, dtype: torch.dtype) -> str:
        """The value in another type; of a single number, converted before the loop."""
        have, want = self.emitter.values[node], C_TYPES[dtype]
        name = self.name(node)
        if have.level == ELEMENT or (have.level == TENSOR and C_TYPES[have.dtype] == want):
            return name if C_TYPES[have.dtype] == want else f"({want})({name})"
        key = (node, want)  # a local copy also tells the compiler that no store into an array changes it
        if key not in self.names:
            self.names[key] = f"{name.replace('.', '_')}_{want[0]}"
            self.before.append(f"const {want} {self.names[key]} = ({want}){name};")
        return self.names[key]


def emit(graph: fx.GraphModule, arrays: Mapping[str, Tensor], num_numbers: int, totals: bool = False) -> Loops:
    """Loops for a graph whose inputs are ``arrays`` (1-d, or 0-d: one number for each tensor), then numbers in float64.

    Its output is a dict of arrays by name, written in place; or, with ``totals``, a 0-d or 1-d tensor, to be summed over all
    tensors.

    Raises:
        NotExpressible: for an operation, type or shape that is not among those that loops are made of.
    """
    return _Emitter(graph, arrays, num_numbers, totals).emit()


class _Emitter:
    def __init__(self, graph: fx.GraphModule, arrays: Mapping[str, Tensor], num_numbers: int, totals: bool) -> None:
        self.graph, self.arrays, self.totals = graph, dict(arrays), totals
        self.keys = tuple(arrays)
        self.wide = [k for k, v in arrays.items() if v.dim() > 0]
        for key, value in arrays.items():
            if value.dtype not in STORED or value.dim() > 1:
                raise NotExpressible(f"array {key} of {value.dtype} with {value.dim()} dimensions")
        self.values: dict[fx.Node, _Value] = {}
        self.reductions: list[_Reduction] = []
        self.call_lines: list[str] = []
        self.call_fields: list[str] = []
        self.call_names: dict[Any, str] = {}
        self._call_stage = _CallStage(self)
        self._numbers: dict[fx.Node, int] = {}
        self.results: dict[str, fx.Node] = {}
        self.single = False
        self._read(num_numbers)

    def number(self, node: fx.Node) -> int:
        return self._numbers.setdefault(node, len(self._numbers))

    # -- reading the graph --------------------------------------------------------------------------------------------

    def _read(self, num_numbers: int) -> None:
        placeholders = [n for n in self.graph.graph.nodes if n.op == "placeholder"]
        if len(placeholders) != len(self.keys) + num_numbers:
            raise NotExpressible("inputs of another number than given")
        self.inputs = dict(zip(self.keys, placeholders, strict=False))
        for key, node in self.inputs.items():
            dtype, wide = self.arrays[key].dtype, self.arrays[key].dim() > 0
            read = self._read_array(key, wide, dtype)
            self.values[node] = _Value(ELEMENT if wide else TENSOR, 0, dtype, read)
        for i, node in enumerate(placeholders[len(self.keys) :]):
            dtype = node.meta["val"].dtype
            if dtype not in (torch.float64, torch.bool):
                raise NotExpressible(f"a number of {dtype}")
            self.values[node] = _Value(CALL, 0, torch.float64, lambda _, i=i: f"given[{i}]")  # type: ignore[misc]
        for node in self.graph.graph.nodes:
            if node.op in ("call_function", "get_attr"):
                self._read_node(node)
            elif node.op == "output":
                self._read_output(node)

    def _read_array(self, key: str, wide: bool, dtype: torch.dtype) -> Callable[[_Stage], str]:
        k = self.keys.index(key)

        def text(stage: _Stage) -> str:
            stage.loaded.add(key)
            place = f"a{k}[i]" if wide else f"a{k}[0]"
            return f"widen({place})" if dtype is torch.bfloat16 else place

        return text

    def _read_output(self, node: fx.Node) -> None:
        found = node.args[0]
        if not self.totals:
            spec = self.graph._out_spec
            self.results = dict(zip(spec.context, found, strict=True))  # type: ignore[arg-type,union-attr]
            return
        only = found[0] if isinstance(found, (tuple, list)) else found
        parts = [only]
        if isinstance(only, fx.Node) and only not in self.values:
            parts = list(only.args[0])  # type: ignore[arg-type]
        if any(part not in self.values or self.values[part].level == ELEMENT for part in parts):
            raise NotExpressible("a total that is no number")
        self.single = parts[0] is only and only.meta["val"].dim() == 0
        self.results = {str(i): part for i, part in enumerate(parts)}

    def _read_node(self, node: fx.Node) -> None:
        if node.op == "get_attr":
            constant = getattr(self.graph, str(node.target))
            if not isinstance(constant, Tensor) or constant.dim() > 0:
                raise NotExpressible(f"a constant of shape {getattr(constant, 'shape', None)}")
            text = _literal(constant.item(), constant.dtype)
            self.values[node] = _Value(CALL, 0, constant.dtype, lambda _: text)
            return
        target = node.target
        if target in (torch.ops.aten.stack.default, torch.ops.aten.cat.default) and self.totals:
            return  # only as the output
        if target in _SIZES:
            self.values[node] = _Value(TENSOR, 0, torch.int64, lambda _: "n")
            return
        rule = _RULES.get(target)
        if rule is None:
            raise NotExpressible(str(target))
        rule(self, node)

    def define(
        self, node: fx.Node, operands: Sequence[Any], text: Callable[[_Stage], str], dtype: torch.dtype | None = None
    ) -> None:
        """Note what a node is, from what it depends on."""
        used = [self.values[a] for a in operands if isinstance(a, fx.Node)]
        dtype = dtype or _dtype(node)
        if dtype not in C_TYPES:
            raise NotExpressible(f"{node.target} of {dtype}")
        self._check_shape(node)
        level, stage = max((v.level for v in used), default=CALL), max((v.stage for v in used), default=0)
        rounded = text
        if dtype is torch.bfloat16:
            rounded = lambda s: f"rounded({text(s)})"  # noqa: E731
        self.values[node] = _Value(level, stage, dtype, rounded)

    def _check_shape(self, node: fx.Node) -> None:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.dim() > 1:
            raise NotExpressible(f"{node.target} with {value.dim()} dimensions")

    def reduce(
        self, node: fx.Node, kind: str, dtype: torch.dtype, source: fx.Node, text: Callable[[_Stage], str]
    ) -> int:
        """A reduction of something computed from ``source`` over all elements of a tensor; returns its place among them."""
        value = self.values[source]
        if value.level != ELEMENT:
            raise NotExpressible(f"{node.target} of a single number")
        self.reductions.append(_Reduction(kind, dtype, value.stage, text))
        return len(self.reductions) - 1

    def reduced(
        self, node: fx.Node, place: int, finish: Callable[[str], str] = lambda x: x, dtype: torch.dtype | None = None
    ) -> None:
        """The node is what a reduction found."""
        dtype = dtype or _dtype(node)
        stage = self.reductions[place].stage + 1
        ctype = C_TYPES[dtype]
        self.values[node] = _Value(TENSOR, stage, dtype, lambda _: f"({ctype})({finish(f'found[{place}]')})")

    # -- writing ------------------------------------------------------------------------------------------------------

    def call_name(self, node: fx.Node) -> str:
        """A field of the struct of numbers that a call computes once."""
        if node not in self.call_names:
            value = self.values[node]
            text = value.text(self._call_stage)
            name = f"n{self.number(node)}"
            self.call_fields.append(f"{C_TYPES[value.dtype]} {name};")
            self.call_lines.append(f"c.{name} = {text};")
            self.call_names[node] = f"c.{name}"
        return self.call_names[node]

    def emit(self) -> Loops:
        last = max(
            [v.stage for v in map(self.values.__getitem__, self.results.values())] + [r.stage for r in self.reductions],
            default=0,
        )
        wide = {k: n for k, n in self.results.items() if not self.totals and self.arrays[k].dim() > 0}
        lone = {k: n for k, n in self.results.items() if k not in wide}
        stages = [self._pass(s, wide if s == last else {}) for s in range(last + 1)] if wide or self.reductions else []
        settle = self._settle(lone)
        source = _PROGRAM.format(
            fields=" ".join(self.call_fields) or "char none;",
            numbers="\n    ".join(self.call_lines),
            stages="\n".join(stages),
            settle=settle,
            num_sums=max(1, len(self.reductions)),
            num_arrays=len(self.keys),
            combine=self._combine(),
            whole="\n            ".join(
                f"stage{s}(c, at, sizes[t], 0, sizes[t], found, part); combine{s}(found, part);"
                for s in range(len(stages))
            ),
            split="\n    ".join(_SPLIT.format(s=s) for s in range(len(stages))),
            totals=max(1, len(self.results)) if self.totals else 1,
        )
        written = tuple(self.results) if not self.totals else ()
        return Loops(
            source, self.keys, written, len(self.reductions), len(self.results) if self.totals else 0, self.single
        )

    def _pass(self, s: int, outputs: Mapping[str, fx.Node]) -> str:
        stage = _Stage(self)
        sums, ends = [], []
        for place, reduction in enumerate(self.reductions):
            if reduction.stage == s:
                ctype = C_TYPES[reduction.dtype]
                text = reduction.text(stage)
                stage.inside.append(_STEPS[reduction.kind].format(x=f"r{place}", value=text, t=ctype))
                sums.append((place, reduction, ctype))
        for key, node in outputs.items():
            dtype = self.arrays[key].dtype
            value = stage.cast(node, dtype)
            if dtype is torch.bfloat16:
                value = f"narrow({value if self.values[node].dtype is torch.bfloat16 else f'rounded({value})'})"
            ends.append(f"a{self.keys.index(key)}[i] = {value};")
        names = {self.keys.index(k) for k in {*stage.loaded, *outputs}}
        pointers = []
        for k in sorted(names):
            ctype = STORED[self.arrays[self.keys[k]].dtype]
            plain = "" if self.keys[k] in outputs else "const "
            offset = "" if self.keys[k] not in self.wide else " + begin"
            pointers.append(f"{plain}{ctype}* __restrict a{k} = ({plain}{ctype}*)at[{k}]{offset};")
        clauses = " ".join(f"reduction({_CLAUSE[r.kind]}:r{p})" for p, r, _ in sums)
        zero = " ".join(f"{t} r{p} = {_START[r.kind].format(t=t)};" for p, r, t in sums)
        flush = " ".join(_FLUSH[r.kind].format(p=p) for p, r, _ in sums)
        start = " ".join(f"double s{p} = {_START[r.kind].format(t='double')};" for p, r, _ in sums)
        save = " ".join(f"part[{p}] = s{p};" for p, r, _ in sums)
        return _STAGE.format(
            s=s,
            pointers="\n    ".join(pointers),
            before="\n    ".join(stage.before),
            start=start,
            block=BLOCK if sums else 2**62,
            zero=zero,
            clauses=clauses,
            inside="\n            ".join([*stage.inside, *ends]),
            flush=flush,
            save=save,
        )

    def _combine(self) -> str:
        last = max((r.stage for r in self.reductions), default=-1)
        stages = max([last + 1] + [v.stage + 1 for v in map(self.values.__getitem__, self.results.values())])
        functions = []
        for s in range(stages):
            here = [(p, r) for p, r in enumerate(self.reductions) if r.stage == s]
            body = " ".join(_COMBINE[r.kind].format(p=p) for p, r in here)
            begin = " ".join(f"found[{p}] = {_START[r.kind].format(t='double')};" for p, r in here)
            functions.append(f"static void begin{s}(double* found) {{ {begin} }}")
            functions.append(f"static void add{s}(double* found, const double* part) {{ {body} }}")
            functions.append(
                f"static void combine{s}(double* found, const double* part) {{ begin{s}(found); add{s}(found, part); }}"
            )
        return "\n".join(functions)

    def _settle(self, lone: Mapping[str, fx.Node]) -> str:
        """What is known once for each tensor, when all its elements are done."""
        stage = _Stage(self)
        ends = []
        for i, (key, node) in enumerate(lone.items()):
            if self.totals:
                ends.append(f"totals[{i}] += (double){stage.name(node)};")
                continue
            dtype = self.arrays[key].dtype
            value = stage.cast(node, dtype)
            if dtype is torch.bfloat16:
                value = f"narrow(rounded({value}))"
            # all are read before any is written
            stage.before.append(f"const {STORED[dtype]} w{i} = {value};")
            ends.append(f"(({STORED[dtype]}*)at[{self.keys.index(key)}])[0] = w{i};")
        pointers = [
            f"const {STORED[self.arrays[k].dtype]}* a{self.keys.index(k)} = (const {STORED[self.arrays[k].dtype]}*)at[{self.keys.index(k)}];"
            for k in sorted(stage.loaded)
        ]
        if any(k in self.wide for k in stage.loaded):
            raise NotExpressible("a number that is an element")
        return "\n    ".join([*pointers, *stage.before, *ends])


class _CallStage(_Stage):
    """Where numbers of a call are computed: everything is named as a field."""

    def __init__(self, emitter: _Emitter) -> None:
        super().__init__(emitter)

    def cast(self, node: fx.Node, dtype: torch.dtype) -> str:
        have, want = self.emitter.values[node], C_TYPES[dtype]
        name = self.name(node)
        return name if C_TYPES[have.dtype] == want else f"({want})({name})"


def _dtype(node: fx.Node) -> torch.dtype:
    value = node.meta.get("val")
    if isinstance(value, Tensor):
        return value.dtype
    if isinstance(value, (bool, torch.SymBool)):
        return torch.bool
    return torch.int64 if isinstance(value, (int, torch.SymInt)) else torch.float64


def _literal(value: Any, dtype: torch.dtype) -> str:
    if dtype is torch.bool:
        return "true" if value else "false"
    if dtype is torch.int64:
        return f"INT64_C({int(value)})"
    ctype, value = C_TYPES[dtype], float(value)
    if math.isnan(value):
        return f"({ctype})NAN"
    if math.isinf(value):
        return f"({ctype})({'-' if value < 0 else ''}INFINITY)"
    return (
        f"({ctype}){value!r}"
        if dtype is torch.float64
        else f"({ctype}){float(torch.tensor(value, dtype=torch.float32))!r}"
    )


def _operand(stage: _Stage, value: Any, dtype: torch.dtype) -> str:
    return stage.cast(value, dtype) if isinstance(value, fx.Node) else _literal(value, dtype)


def _common(emitter: _Emitter, x: Any, y: Any) -> torch.dtype:
    """The type in which two operands are compared."""
    return torch.result_type(*(_sample(emitter, v) if isinstance(v, fx.Node) else v for v in (x, y)))


def _sample(emitter: _Emitter, node: fx.Node) -> Tensor:
    value = node.meta.get("val")
    dims = value.dim() if isinstance(value, Tensor) else 0
    return torch.empty((1,) * dims, dtype=emitter.values[node].dtype)


# -- the words: what every operation is in C++ ------------------------------------------------------------------------------

Rule = Callable[[_Emitter, fx.Node], None]


def _elementwise(template: str, kind: str = "result") -> Rule:
    """Operands in the type of the result, or, to compare them, in their common one; ``template`` names them x, y, z."""

    def rule(emitter: _Emitter, node: fx.Node) -> None:
        operands = [a for a in node.args if a is not None]
        dtype = _dtype(node) if kind == "result" else _common(emitter, *operands)
        if kind == "result" and dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool):
            raise NotExpressible(f"{node.target} of {dtype}")
        work = torch.float32 if dtype is torch.bfloat16 else dtype

        def text(stage: _Stage) -> str:
            shown = dict(zip("xyz", (_operand(stage, a, work) for a in operands), strict=False))
            return template.format(**shown)

        emitter.define(node, operands, text)

    return rule


def _scaled_sum(sign: str) -> Rule:
    def rule(emitter: _Emitter, node: fx.Node) -> None:
        x, y = node.args[:2]
        alpha = node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1)
        dtype = _dtype(node)

        def text(stage: _Stage) -> str:
            second = _operand(stage, y, dtype)
            scaled = second if alpha == 1 else f"{_operand(stage, alpha, dtype)} * {second}"
            return f"{_operand(stage, x, dtype)} {sign} {scaled}"

        emitter.define(node, [x, y, alpha], text)

    return rule


def _divide(emitter: _Emitter, node: fx.Node) -> None:
    x, y = node.args[:2]
    dtype = _dtype(node)
    mode = node.kwargs.get("rounding_mode")
    divisor = emitter.values[y] if isinstance(y, fx.Node) else None
    single = (
        divisor is not None
        and divisor.level != ELEMENT
        and isinstance(x, fx.Node)
        and emitter.values[x].level == ELEMENT
    )

    def text(stage: _Stage) -> str:
        first = _operand(stage, x, dtype)
        if single and mode is None:  # times the inverse, which is taken once
            key = ("inverse", y, dtype)
            if key not in stage.names:
                stage.names[key] = f"inverse{emitter.number(y)}"
                wide = stage.cast(y, torch.float64)
                stage.before.append(f"const {C_TYPES[dtype]} {stage.names[key]} = ({C_TYPES[dtype]})(1.0 / {wide});")
            return f"{first} * {stage.names[key]}"
        quotient = f"{first} / {_operand(stage, y, dtype)}"
        return {None: quotient, "floor": f"std::floor({quotient})", "trunc": f"std::trunc({quotient})"}[mode]

    if dtype in (torch.int64, torch.bool):
        raise NotExpressible(f"{node.target} of {dtype}")
    emitter.define(node, [x, y], text)


def _lerp(emitter: _Emitter, node: fx.Node) -> None:
    x, y, weight = node.args[:3]
    dtype = _dtype(node)
    levels = [emitter.values[a].level if isinstance(a, fx.Node) else CALL for a in (x, y, weight)]
    single = ELEMENT in levels[:2] and levels[2] != ELEMENT

    def text(stage: _Stage) -> str:
        first, second = _operand(stage, x, dtype), _operand(stage, y, dtype)
        if not single:
            w = _operand(stage, weight, dtype)
            return f"({w} < 0.5f ? {first} + {w} * ({second} - {first}) : {second} - ({second} - {first}) * (1 - {w}))"
        # both weights are taken once; torch's own form chooses between two formulae at every element
        key = ("weights", weight, dtype)
        if key not in stage.names:
            stage.names[key] = f"weight{len(stage.names)}"
            wide = _operand(stage, weight, torch.float64)
            t = C_TYPES[dtype]
            stage.before.append(
                f"const {t} {stage.names[key]} = ({t}){wide}, {stage.names[key]}_kept = ({t})(1.0 - {wide});"
            )
        name = stage.names[key]
        return f"{first} * {name}_kept + {second} * {name}"

    emitter.define(node, [x, y, weight], text)


def _power(emitter: _Emitter, node: fx.Node) -> None:
    x, y = node.args[:2]
    dtype = _dtype(node)
    if dtype not in (torch.float32, torch.float64):
        raise NotExpressible(f"{node.target} of {dtype}")
    short = {
        2: "{x} * {x}",
        3: "{x} * {x} * {x}",
        1: "{x}",
        0.5: "std::sqrt({x})",
        -1: "1 / {x}",
        -0.5: "1 / std::sqrt({x})",
        0: "1",
    }

    def text(stage: _Stage) -> str:
        base = _operand(stage, x, dtype)
        if not isinstance(y, fx.Node) and y in short:
            return short[y].format(x=base)
        return f"std::pow({base}, {_operand(stage, y, dtype)})"

    emitter.define(node, [x, y], text)


def _where(emitter: _Emitter, node: fx.Node) -> None:
    flag, x, y = node.args
    dtype = _dtype(node)

    def text(stage: _Stage) -> str:
        return f"({stage.cast(flag, torch.bool)} ? {_operand(stage, x, dtype)} : {_operand(stage, y, dtype)})"  # type: ignore[arg-type]

    emitter.define(node, [flag, x, y], text)


def _clamp(emitter: _Emitter, node: fx.Node) -> None:
    x = node.args[0]
    low = node.args[1] if len(node.args) > 1 else node.kwargs.get("min")
    high = node.args[2] if len(node.args) > 2 else node.kwargs.get("max")
    dtype = _dtype(node)

    def text(stage: _Stage) -> str:
        shown = _operand(stage, x, dtype)
        if low is not None:
            shown = f"larger({shown}, {_operand(stage, low, dtype)})"
        return shown if high is None else f"smaller({shown}, {_operand(stage, high, dtype)})"

    emitter.define(node, [x, low, high], text)


def _same(emitter: _Emitter, node: fx.Node) -> None:
    """What changes neither value nor order: copies, conversions, views."""
    x = node.args[0]
    dtype = _dtype(node)
    assert isinstance(x, fx.Node)
    if emitter.values[x].dtype is torch.bool and dtype is not torch.bool:
        emitter.define(node, [x], lambda s: f"({C_TYPES[dtype]})({s.name(x)})")
        return
    emitter.define(node, [x], lambda s: s.cast(x, dtype) if dtype is not torch.bool else f"({s.name(x)} != 0)")


def _constant(value: Callable[[fx.Node], Any]) -> Rule:
    def rule(emitter: _Emitter, node: fx.Node) -> None:
        found, dtype = value(node), _dtype(node)
        emitter.define(node, [found], lambda s: _operand(s, found, dtype))

    return rule


def _reduction(kind: str, finish: str = "{x}") -> Rule:
    def rule(emitter: _Emitter, node: fx.Node) -> None:
        x = node.args[0]
        assert isinstance(x, fx.Node)
        _require_all(node)
        dtype = emitter.values[x].dtype if kind in ("any", "all") else _dtype(node)
        if emitter.values[x].level == CALL:
            raise NotExpressible(f"{node.target} of a constant")
        if kind in ("any", "all"):
            place = emitter.reduce(
                node, kind, torch.bool, x, lambda s: s.name(x) if dtype is torch.bool else f"({s.name(x)} != 0)"
            )
            emitter.reduced(node, place, lambda f: f"{f} != 0", torch.bool)
            return
        place = emitter.reduce(node, kind, dtype, x, lambda s: s.cast(x, dtype))
        emitter.reduced(node, place, lambda f: finish.format(x=f))

    return rule


def _norm(emitter: _Emitter, node: fx.Node) -> None:
    x = node.args[0]
    assert isinstance(x, fx.Node)
    order = node.args[1] if len(node.args) > 1 else 2
    _require_all(node, dims=2)
    dtype = _dtype(node)
    kinds = {
        2: ("sum", "{x} * {x}", "std::sqrt({f})"),
        1: ("sum", "std::abs({x})", "{f}"),
        math.inf: ("amax", "std::abs({x})", "{f}"),
    }
    if order not in kinds:
        raise NotExpressible(f"a norm of order {order}")
    kind, inner, outer = kinds[order]  # type: ignore[index]
    place = emitter.reduce(node, kind, dtype, x, lambda s: inner.format(x=s.cast(x, dtype)))
    emitter.reduced(node, place, lambda f: outer.format(f=f))


def _variance(emitter: _Emitter, node: fx.Node) -> None:
    x = node.args[0]
    assert isinstance(x, fx.Node)
    _require_all(node)
    correction = node.kwargs.get("correction", 1)
    correction = 1 if correction is None else correction
    dtype = _dtype(node)
    mean = emitter.reduce(node, "sum", dtype, x, lambda s: s.cast(x, dtype))

    def squared(stage: _Stage) -> str:
        stage.before.append(f"const {C_TYPES[dtype]} mean{mean} = ({C_TYPES[dtype]})(found[{mean}] / n);")
        away = f"({stage.cast(x, dtype)} - mean{mean})"
        return f"{away} * {away}"

    emitter.reductions.append(_Reduction("sum", dtype, emitter.reductions[mean].stage + 1, squared))
    emitter.reduced(
        node, len(emitter.reductions) - 1, lambda f: f"{f} / std::max(0.0, (double)n - {float(correction)!r})"
    )


def _require_all(node: fx.Node, dims: int = 1) -> None:
    """A reduction must be over the whole tensor and leave a single number."""
    value = node.meta.get("val")
    if isinstance(value, Tensor) and value.dim() > 0 and any(size != 1 for size in value.shape):
        raise NotExpressible(f"{node.target} that leaves several numbers")
    source = node.args[0].meta["val"]  # type: ignore[union-attr]
    if source.dim() != 1:
        raise NotExpressible(f"{node.target} of {source.dim()} dimensions")


ops = torch.ops.aten
_SIZES = {ops.sym_numel.default, ops.sym_size.int}

_RULES: dict[Any, Rule] = {
    **dict.fromkeys((ops.add.Tensor, ops.add.Scalar), _scaled_sum("+")),
    **dict.fromkeys((ops.sub.Tensor, ops.sub.Scalar), _scaled_sum("-")),
    **dict.fromkeys((ops.mul.Tensor, ops.mul.Scalar), _elementwise("{x} * {y}")),
    **dict.fromkeys((ops.div.Tensor, ops.div.Scalar, ops.div.Tensor_mode, ops.div.Scalar_mode), _divide),
    **dict.fromkeys((ops.lerp.Tensor, ops.lerp.Scalar), _lerp),
    **dict.fromkeys((ops.pow.Tensor_Tensor, ops.pow.Tensor_Scalar, ops.pow.Scalar), _power),
    **dict.fromkeys((ops.clamp.default, ops.clamp.Tensor), _clamp),
    ops.clamp_min.default: _elementwise("larger({x}, {y})"),
    ops.clamp_max.default: _elementwise("smaller({x}, {y})"),
    ops.maximum.default: _elementwise("larger({x}, {y})"),
    ops.minimum.default: _elementwise("smaller({x}, {y})"),
    ops.rsub.Scalar: _elementwise("{y} - {x}"),
    ops.neg.default: _elementwise("-{x}"),
    ops.abs.default: _elementwise("std::abs({x})"),
    ops.sign.default: _elementwise("sign_of({x})"),
    ops.sqrt.default: _elementwise("std::sqrt({x})"),
    ops.rsqrt.default: _elementwise("1 / std::sqrt({x})"),
    ops.reciprocal.default: _elementwise("1 / {x}"),
    ops.exp.default: _elementwise("std::exp({x})"),
    ops.log.default: _elementwise("std::log({x})"),
    ops.log1p.default: _elementwise("std::log1p({x})"),
    ops.expm1.default: _elementwise("std::expm1({x})"),
    ops.tanh.default: _elementwise("std::tanh({x})"),
    ops.cos.default: _elementwise("std::cos({x})"),
    ops.sin.default: _elementwise("std::sin({x})"),
    ops.sigmoid.default: _elementwise("1 / (1 + std::exp(-{x}))"),
    ops.floor.default: _elementwise("std::floor({x})"),
    ops.ceil.default: _elementwise("std::ceil({x})"),
    ops.round.default: _elementwise("std::nearbyint({x})"),
    ops.remainder.Scalar: _elementwise("remainder_of({x}, {y})"),
    ops.remainder.Tensor: _elementwise("remainder_of({x}, {y})"),
    ops.square.default: _elementwise("{x} * {x}"),
    **{
        getattr(getattr(ops, name), over): _elementwise(f"({{x}} {sign} {{y}})", "compared")
        for name, sign in (("le", "<="), ("lt", "<"), ("ge", ">="), ("gt", ">"), ("eq", "=="), ("ne", "!="))
        for over in ("Tensor", "Scalar")
    },
    **dict.fromkeys((ops.bitwise_and.Tensor, ops.logical_and.default), _elementwise("({x} & {y})")),
    **dict.fromkeys((ops.bitwise_or.Tensor, ops.logical_or.default), _elementwise("({x} | {y})")),
    **dict.fromkeys((ops.bitwise_not.default, ops.logical_not.default), _elementwise("(!{x})")),
    ops.where.self: _where,
    **dict.fromkeys(
        (
            ops._to_copy.default,
            ops.clone.default,
            ops.alias.default,
            ops.detach.default,
            ops.view.default,
            ops.expand.default,
            ops.unsqueeze.default,
            ops.squeeze.default,
            ops.squeeze.dim,
            ops.squeeze.dims,
            ops._unsafe_view.default,
            ops.reshape.default,
            ops.lift_fresh_copy.default,
            ops.contiguous.default,
        ),
        _same,
    ),
    ops.full_like.default: _constant(lambda n: n.args[1]),
    ops.full.default: _constant(lambda n: n.args[1]),
    ops.scalar_tensor.default: _constant(lambda n: n.args[0]),
    ops.zeros_like.default: _constant(lambda n: 0),
    ops.ones_like.default: _constant(lambda n: 1),
    ops.new_zeros.default: _constant(lambda n: 0),
    **dict.fromkeys((ops.sum.default, ops.sum.dim_IntList), _reduction("sum")),
    **dict.fromkeys((ops.mean.default, ops.mean.dim), _reduction("sum", "{x} / n")),
    **dict.fromkeys((ops.amax.default, ops.max.default), _reduction("amax")),
    **dict.fromkeys((ops.amin.default, ops.min.default), _reduction("amin")),
    **dict.fromkeys((ops.any.default, ops.any.dim), _reduction("any")),
    **dict.fromkeys((ops.all.default, ops.all.dim), _reduction("all")),
    ops.linalg_vector_norm.default: _norm,
    ops.var.correction: _variance,
}

_STEPS = {
    "sum": "{x} += {value};",
    "amax": "{x} = larger({x}, ({t})({value}));",
    "amin": "{x} = smaller({x}, ({t})({value}));",
    "any": "{x} |= {value};",
    "all": "{x} &= {value};",
}
_START = {"sum": "0", "amax": "-({t})INFINITY", "amin": "({t})INFINITY", "any": "0", "all": "1"}
_CLAUSE = {"sum": "+", "amax": "max", "amin": "min", "any": "|", "all": "&"}
_FLUSH = {
    "sum": "s{p} += r{p};",
    "amax": "s{p} = larger(s{p}, (double)r{p});",
    "amin": "s{p} = smaller(s{p}, (double)r{p});",
    "any": "s{p} = (s{p} != 0) | r{p};",
    "all": "s{p} = (s{p} != 0) & r{p};",
}
_COMBINE = {
    "sum": "found[{p}] += part[{p}];",
    "amax": "found[{p}] = larger(found[{p}], part[{p}]);",
    "amin": "found[{p}] = smaller(found[{p}], part[{p}]);",
    "any": "found[{p}] = (found[{p}] != 0) | (part[{p}] != 0);",
    "all": "found[{p}] = (found[{p}] != 0) & (part[{p}] != 0);",
}

_STAGE = """
static void stage{s}(const Numbers& c, void* const* at, int64_t n, int64_t begin, int64_t length, const double* found, double* part) {{
    {pointers}
    {before}
    {start}
    for (int64_t b = 0; b < length; b += {block}) {{
        const int64_t end = length - b < {block} ? length : b + {block};
        {zero}
        #pragma omp simd {clauses}
        for (int64_t i = b; i < end; ++i) {{
            {inside}
        }}
        {flush}
    }}
    {save}
}}"""

_SPLIT = """
    #pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (num_split > 1)
    for (int64_t k = 0; k < num_split; ++k) {{
        const int64_t t = split[3 * k];
        void* at[ARRAYS];
        for (int j = 0; j < ARRAYS; ++j) at[j] = (void*)arrays[j][t];
        stage{s}(c, at, sizes[t], split[3 * k + 1], split[3 * k + 2], &sums[t * SUMS], &parts[k * SUMS]);
    }}
    for (int64_t k = 0; k < num_split; ++k) {{
        if (split[3 * k + 1] == 0) begin{s}(&sums[split[3 * k] * SUMS]);
        add{s}(&sums[split[3 * k] * SUMS], &parts[k * SUMS]);
    }}"""

_PROGRAM = """// written by fallline.core.loops
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

static const int SUMS = {num_sums}, ARRAYS = {num_arrays}, TOTALS = {totals};
static inline float widen(uint16_t x) {{ uint32_t w = (uint32_t)x << 16; float f; std::memcpy(&f, &w, 4); return f; }}
static inline float rounded(float f) {{  // to the nearest bfloat16, ties to even
    uint32_t w; std::memcpy(&w, &f, 4);
    w = f != f ? 0x7fc00000u : (w + 0x7fffu + ((w >> 16) & 1u)) & 0xffff0000u;
    std::memcpy(&f, &w, 4); return f;
}}
static inline uint16_t narrow(float f) {{ uint32_t w; std::memcpy(&w, &f, 4); return (uint16_t)(w >> 16); }}
template <class T> static inline T larger(T x, T y) {{ return (x > y) | (x != x) ? x : y; }}
template <class T> static inline T smaller(T x, T y) {{ return (x < y) | (x != x) ? x : y; }}
template <class T> static inline T sign_of(T x) {{ return (T)((T)(x > 0) - (T)(x < 0)); }}
template <class T> static inline T remainder_of(T x, T y) {{
    T r = std::fmod(x, y); return (r != 0) & ((r < 0) != (y < 0)) ? r + y : r;
}}

struct Numbers {{ {fields} }};
static void compute(const double* given, Numbers& c) {{
    {numbers}
}}
{stages}
{combine}
static void settle(const Numbers& c, void* const* at, int64_t n, const double* found, double* totals) {{
    {settle}
}}

// arrays[j][t]: array j of tensor t. whole: tensors that one thread runs by itself. split: (tensor, begin, length) of the others.
extern "C" void run(const double* given, const int64_t* const* arrays, const int64_t* sizes, int64_t num_tensors,
                    const int64_t* whole, int64_t num_whole, const int64_t* split, int64_t num_split, double* totals, int threads) {{
    Numbers c;
    compute(given, c);
    std::vector<double> sums(num_tensors * SUMS), parts((num_split + 1) * SUMS);
    #pragma omp parallel for num_threads(threads) schedule(dynamic, 8) if (num_whole > 1)
    for (int64_t k = 0; k < num_whole; ++k) {{
        const int64_t t = whole[k];
        void* at[ARRAYS];
        for (int j = 0; j < ARRAYS; ++j) at[j] = (void*)arrays[j][t];
        double *found = &sums[t * SUMS], part[SUMS];
        {whole}
    }}
    {split}
    for (int64_t t = 0; t < num_tensors; ++t) {{
        void* at[ARRAYS];
        for (int j = 0; j < ARRAYS; ++j) at[j] = (void*)arrays[j][t];
        settle(c, at, sizes[t], &sums[t * SUMS], totals);
    }}
}}
"""
