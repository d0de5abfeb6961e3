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
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

__all__ = [
    "CALL",
    "CPU",
    "C_TYPES",
    "ELEMENT",
    "FLUSH",
    "HELPERS",
    "ROUND",
    "START",
    "STORED",
    "TENSOR",
    "Dialect",
    "Emitter",
    "Loops",
    "NotExpressible",
    "Pass",
    "Reduction",
    "Rule",
    "Settled",
    "Stage",
    "Value",
    "dtype_of",
    "operand",
]

BLOCK = 1024
"""Elements of a sum that are added in the type of the elements; blocks are added in double."""

STREAMS = 4
"""Places at once that a pass reads which reads little and writes nothing: one place alone waits for the memory."""

C_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.bfloat16: "float",
    torch.float16: "float",
    torch.bool: "bool",
    torch.int32: "int32_t",
    torch.int64: "int64_t",
}
"""Values of half precision are held as floats that have been rounded."""

ROUND = {torch.bfloat16: "rounded({})", torch.float16: "(float)(_Float16)({})"}
WIDEN = {torch.bfloat16: "widen({})", torch.float16: "(float){}"}
NARROW = {torch.bfloat16: "narrow({})", torch.float16: "(_Float16)({})"}  # of what has been rounded

STORED = {
    torch.float32: "float",
    torch.float64: "double",
    torch.bfloat16: "uint16_t",
    torch.float16: "_Float16",
    torch.int64: "int64_t",
}
"""Arrays that loops can read and write."""


class NotExpressible(Exception):
    """The trace has an operation that loops have no words for; another executor takes it."""


@dataclass(frozen=True)
class Loops:
    """C++ source, and how to call it."""

    source: str
    keys: tuple[str, ...]  # arrays, in the order of the pointer tables
    num_totals: int  # numbers that come back, each summed over all tensors
    single: bool = False  # whether the trace returned one number by itself


@dataclass
class Value:
    level: int  # CALL, TENSOR or ELEMENT
    stage: int  # the first pass in which it can be known
    dtype: torch.dtype
    text: Callable[[Stage], str]  # its expression; operands are named through the stage


CALL, TENSOR, ELEMENT = range(3)
"""Levels: known once for a call, for each tensor, for each element."""

SIZES = {torch.ops.aten.sym_numel.default, torch.ops.aten.sym_size.int}


@dataclass
class Reduction:
    kind: str  # sum, amax, amin, any
    dtype: torch.dtype
    stage: int
    text: Callable[[Stage], str]


@dataclass
class Stage:
    """One pass being written: lines before the loop over elements and in it; every value has one name."""

    emitter: Emitter
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
            self.names[key] = f"{name.replace('.', '_')}_{want}"
            self.before.append(f"const {want} {self.names[key]} = ({want}){name};")
        return self.names[key]


@dataclass(frozen=True)
class Pass:
    """A stage, written: what every program puts its own loops around."""

    stage: int
    arrays: tuple[int, ...]  # places of the arrays that it reads or writes
    loaded: frozenset[int]  # of those that it reads
    written: Mapping[int, str]  # place of an array -> the value of an element
    before: tuple[str, ...]  # lines that a tensor needs once
    inside: tuple[str, ...]  # lines for every element
    sums: tuple[tuple[int, Reduction], ...]  # place among all reductions, what is reduced


@dataclass(frozen=True)
class Settled:
    """What is known once for each tensor when all its elements are done, written."""

    pointers: tuple[str, ...]
    before: tuple[str, ...]
    ends: tuple[str, ...]  # single numbers written, or what is added to each total


Rule: TypeAlias = Callable[["Emitter", fx.Node], None]


class Emitter:
    """Reads a graph, then writes it; the rules say what every operation is in C++."""

    def __init__(
        self,
        graph: fx.GraphModule,
        arrays: Mapping[str, Tensor],
        num_numbers: int,
        totals: bool,
        rules: Mapping[Any, Rule],
        place: str,
    ) -> None:
        self.rules, self.place, self.num_numbers = rules, place, num_numbers
        self.graph, self.arrays, self.totals = graph, dict(arrays), totals
        self.keys = tuple(arrays)
        self.wide = [k for k, v in arrays.items() if v.dim() > 0]
        for key, value in arrays.items():
            if value.dtype not in STORED or value.dim() > 1:
                raise NotExpressible(f"array {key} of {value.dtype} with {value.dim()} dimensions")
        self.values: dict[fx.Node, Value] = {}
        self.reductions: list[Reduction] = []
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
            self.values[node] = Value(ELEMENT if wide else TENSOR, 0, dtype, read)
        for i, node in enumerate(placeholders[len(self.keys) :]):
            dtype = node.meta["val"].dtype
            if dtype not in (torch.float64, torch.bool):
                raise NotExpressible(f"a number of {dtype}")
            self.values[node] = Value(CALL, 0, torch.float64, lambda _, i=i: f"given[{i}]")  # type: ignore[misc]
        for node in self.graph.graph.nodes:
            if node.op in ("call_function", "get_attr"):
                self._read_node(node)
            elif node.op == "output":
                self._read_output(node)

    def _read_array(self, key: str, wide: bool, dtype: torch.dtype) -> Callable[[Stage], str]:
        k = self.keys.index(key)

        def text(stage: Stage) -> str:
            stage.loaded.add(key)
            return WIDEN.get(dtype, "{}").format(self.place.format(k=k) if wide else f"a{k}[0]")

        return text

    def _read_output(self, node: fx.Node) -> None:
        found: Any = node.args[0]
        if not self.totals:
            spec = self.graph._out_spec
            self.results = dict(zip(spec.context, found, strict=True))  # type: ignore[union-attr]
            return
        only = found[0] if isinstance(found, (tuple, list)) else found
        parts: list[Any] = [only]
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
            text = literal(constant.item(), constant.dtype)
            self.values[node] = Value(CALL, 0, constant.dtype, lambda _: text)
            return
        target = node.target
        if target in (torch.ops.aten.stack.default, torch.ops.aten.cat.default) and self.totals:
            return  # only as the output
        if target in SIZES:
            self.values[node] = Value(TENSOR, 0, torch.int64, lambda _: "n")
            return
        rule = self.rules.get(target)
        if rule is None:
            raise NotExpressible(str(target))
        rule(self, node)

    def define(
        self, node: fx.Node, operands: Sequence[Any], text: Callable[[Stage], str], dtype: torch.dtype | None = None
    ) -> None:
        """Note what a node is, from what it depends on."""
        used = [self.values[a] for a in operands if isinstance(a, fx.Node)]
        dtype = dtype or dtype_of(node)
        if dtype not in C_TYPES:
            raise NotExpressible(f"{node.target} of {dtype}")
        self._check_shape(node)
        level, stage = max((v.level for v in used), default=CALL), max((v.stage for v in used), default=0)
        rounded = text
        if dtype in ROUND:
            rounded = lambda s: ROUND[dtype].format(text(s))  # noqa: E731
        self.values[node] = Value(level, stage, dtype, rounded)

    def _check_shape(self, node: fx.Node) -> None:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.dim() > 1:
            raise NotExpressible(f"{node.target} with {value.dim()} dimensions")

    def reduce(
        self, node: fx.Node, kind: str, dtype: torch.dtype, source: fx.Node, text: Callable[[Stage], str]
    ) -> int:
        """A reduction of something computed from ``source`` over all elements of a tensor; returns its place among them."""
        value = self.values[source]
        if value.level != ELEMENT:
            raise NotExpressible(f"{node.target} of a single number")
        self.reductions.append(Reduction(kind, dtype, value.stage, text))
        return len(self.reductions) - 1

    def reduced(
        self, node: fx.Node, place: int, finish: Callable[[str], str] = lambda x: x, dtype: torch.dtype | None = None
    ) -> None:
        """The node is what a reduction found."""
        dtype = dtype or dtype_of(node)
        stage = self.reductions[place].stage + 1
        ctype = C_TYPES[dtype]
        self.values[node] = Value(TENSOR, stage, dtype, lambda _: f"({ctype})({finish(f'found[{place}]')})")

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

    def read(self) -> tuple[list[Pass], Settled]:
        """The passes over the elements, and what comes after them."""
        last = max(
            [v.stage for v in map(self.values.__getitem__, self.results.values())] + [r.stage for r in self.reductions],
            default=0,
        )
        wide = {k: n for k, n in self.results.items() if not self.totals and self.arrays[k].dim() > 0}
        lone = {k: n for k, n in self.results.items() if k not in wide}
        number = last + 1 if wide else max((r.stage + 1 for r in self.reductions), default=0)
        return [self._pass(s, wide if s == last else {}) for s in range(number)], self._settle(lone)

    def emit(self) -> Loops:
        """C++ for the CPU."""
        passes, settled = self.read()
        settle = [
            *settled.pointers,
            *settled.before,
            *(f"totals[{i}] += {x};" if self.totals else x for i, x in enumerate(settled.ends)),
        ]
        source = _PROGRAM.format(
            helpers=HELPERS,
            fields=" ".join(self.call_fields) or "char none;",
            numbers="\n    ".join(self.call_lines),
            stages="\n".join(map(self._loop, passes)),
            settle="\n    ".join(settle),
            num_sums=max(1, len(self.reductions)),
            num_arrays=len(self.keys),
            combine=self._combine(),
            whole="\n            ".join(
                f"stage{s}(c, at, sizes[t], 0, sizes[t], found, part); combine{s}(found, part);"
                for s in range(len(passes))
            ),
            split="\n    ".join(_SPLIT.format(s=s, place=self._place(s)) for s in range(len(passes))),
            totals=max(1, len(self.results)) if self.totals else 1,
        )
        return Loops(source, self.keys, len(self.results) if self.totals else 0, self.single)

    def _place(self, s: int) -> str:
        """Where a pass is: they go to and fro, a sum that comes before a step backwards, so that each begins where the cache is warm."""
        return "num_split - 1 - j" if (s % 2 == 1) != self.totals else "j"

    def _pass(self, s: int, outputs: Mapping[str, fx.Node]) -> Pass:
        stage = Stage(self)
        sums = [(place, reduction) for place, reduction in enumerate(self.reductions) if reduction.stage == s]
        for place, reduction in sums:
            text = reduction.text(stage)
            line = _STEPS[reduction.kind].format(x=f"r{place}", value=text, t=C_TYPES[reduction.dtype])
            stage.inside.append(line)
        written = {self.keys.index(k): self._stored(stage, n, self.arrays[k].dtype) for k, n in outputs.items()}
        loaded = frozenset(map(self.keys.index, stage.loaded))
        return Pass(
            s,
            tuple(sorted(loaded | written.keys())),
            loaded,
            written,
            tuple(stage.before),
            tuple(stage.inside),
            tuple(sums),
        )

    def pointers(self, of: Pass, offset: str) -> list[str]:
        """Declarations of the arrays of a pass, each beginning at ``offset``."""
        lines = []
        for k in of.arrays:
            plain = "" if k in of.written else "const "
            ctype = f"{plain}{STORED[self.arrays[self.keys[k]].dtype]}"
            begin = offset if self.keys[k] in self.wide else ""
            lines.append(f"{ctype}* __restrict a{k} = ({ctype}*)at[{k}]{begin};")
        return lines

    def _loop(self, of: Pass) -> str:
        """A pass as a function for one processor."""
        sums = [(p, r.kind, C_TYPES[r.dtype]) for p, r in of.sums]
        clauses = " ".join(f"reduction({_CLAUSE[kind]}:r{p})" for p, kind, _ in sums)
        zero = " ".join(f"{t} r{p} = {START[kind].format(t=t)};" for p, kind, t in sums)
        flush = " ".join(FLUSH[kind].format(p=p) for p, kind, _ in sums)
        start = " ".join(f"double s{p} = {START[kind].format(t='double')};" for p, kind, _ in sums)
        save = " ".join(f"part[{p}] = s{p};" for p, _, _ in sums)
        body = "\n            ".join([*of.inside, *(f"a{k}[i] = {value};" for k, value in of.written.items())])
        several = ""
        if not of.written and sum(self.keys[k] in self.wide for k in of.arrays) <= 2:
            each = "\n            ".join(f"{{ const int64_t i = j + {k} * stride; {body} }}" for k in range(STREAMS))
            several = _SEVERAL.format(
                streams=STREAMS, block=BLOCK // STREAMS, zero=zero, clauses=clauses, inside=each, flush=flush
            )
        return _STAGE.format(
            s=of.stage,
            pointers="\n    ".join(self.pointers(of, " + begin")),
            before="\n    ".join(of.before),
            start=start,
            several=several,
            from_=f"stride * {STREAMS}" if several else "0",
            block=BLOCK if sums else 2**62,
            zero=zero,
            clauses=clauses,
            inside=body,
            flush=flush,
            save=save,
        )

    def _stored(self, stage: Stage, node: fx.Node, dtype: torch.dtype) -> str:
        value = stage.cast(node, dtype)
        if dtype in ROUND and self.values[node].dtype is not dtype:
            value = ROUND[dtype].format(value)
        return NARROW.get(dtype, "{}").format(value)

    def _combine(self) -> str:
        last = max((r.stage for r in self.reductions), default=-1)
        stages = max([last + 1] + [v.stage + 1 for v in map(self.values.__getitem__, self.results.values())])
        functions = []
        for s in range(stages):
            here = [(p, r) for p, r in enumerate(self.reductions) if r.stage == s]
            body = " ".join(_COMBINE[r.kind].format(p=p) for p, r in here)
            begin = " ".join(f"found[{p}] = {START[r.kind].format(t='double')};" for p, r in here)
            functions.append(f"static void begin{s}(double* found) {{ {begin} }}")
            functions.append(f"static void add{s}(double* found, const double* part) {{ {body} }}")
            functions.append(
                f"static void combine{s}(double* found, const double* part) {{ begin{s}(found); add{s}(found, part); }}"
            )
        return "\n".join(functions)

    def _settle(self, lone: Mapping[str, fx.Node]) -> Settled:
        """What is known once for each tensor, when all its elements are done."""
        stage = Stage(self)
        ends = []
        for i, (key, node) in enumerate(lone.items()):
            if self.totals:
                ends.append(f"(double){stage.name(node)}")
                continue
            dtype = self.arrays[key].dtype
            value = self._stored(stage, node, dtype)
            # all are read before any is written
            stage.before.append(f"const {STORED[dtype]} w{i} = {value};")
            ends.append(f"(({STORED[dtype]}*)at[{self.keys.index(key)}])[0] = w{i};")
        if any(k in self.wide for k in stage.loaded):
            raise NotExpressible("a number that is an element")
        types = {self.keys.index(k): STORED[self.arrays[k].dtype] for k in sorted(stage.loaded)}
        pointers = [f"const {t}* a{k} = (const {t}*)at[{k}];" for k, t in types.items()]
        return Settled(tuple(pointers), tuple(stage.before), tuple(ends))


@dataclass(frozen=True)
class Dialect:
    """How programs are written: where a body reads an element of array k, and what is made of a graph that has been read."""

    place: str
    write: Callable[[Emitter], Any]


CPU = Dialect("a{k}[i]", Emitter.emit)


class _CallStage(Stage):
    """Where numbers of a call are computed: everything is named as a field."""

    def __init__(self, emitter: Emitter) -> None:
        super().__init__(emitter)

    def cast(self, node: fx.Node, dtype: torch.dtype) -> str:
        have, want = self.emitter.values[node], C_TYPES[dtype]
        name = self.name(node)
        return name if C_TYPES[have.dtype] == want else f"({want})({name})"


def dtype_of(node: fx.Node) -> torch.dtype:
    value = node.meta.get("val")
    if isinstance(value, Tensor):
        return value.dtype
    if isinstance(value, (bool, torch.SymBool)):
        return torch.bool
    return torch.int64 if isinstance(value, (int, torch.SymInt)) else torch.float64


def literal(value: Any, dtype: torch.dtype) -> str:
    if dtype is torch.bool:
        return "true" if value else "false"
    if dtype in (torch.int32, torch.int64):
        return f"({C_TYPES[dtype]}){int(value)}LL"
    ctype, value = C_TYPES[dtype], float(value)
    if math.isnan(value):
        return f'({ctype})__builtin_nan("")'
    if math.isinf(value):
        return f"({ctype})({'-' if value < 0 else ''}__builtin_inf())"
    return (
        f"({ctype}){value!r}"
        if dtype is torch.float64
        else f"({ctype}){float(torch.tensor(value, dtype=torch.float32))!r}"
    )


def operand(stage: Stage, value: Any, dtype: torch.dtype) -> str:
    return stage.cast(value, dtype) if isinstance(value, fx.Node) else literal(value, dtype)


_STEPS = {
    "sum": "{x} += {value};",
    "amax": "{x} = larger({x}, ({t})({value}));",
    "amin": "{x} = smaller({x}, ({t})({value}));",
    "any": "{x} |= {value};",
}
START = {"sum": "0", "amax": "-({t})__builtin_inf()", "amin": "({t})__builtin_inf()", "any": "0"}
_CLAUSE = {"sum": "+", "amax": "max", "amin": "min", "any": "|"}
FLUSH = {
    "sum": "s{p} += r{p};",
    "amax": "s{p} = larger(s{p}, (double)r{p});",
    "amin": "s{p} = smaller(s{p}, (double)r{p});",
    "any": "s{p} = (s{p} != 0) | r{p};",
}
_COMBINE = {
    "sum": "found[{p}] += part[{p}];",
    "amax": "found[{p}] = larger(found[{p}], part[{p}]);",
    "amin": "found[{p}] = smaller(found[{p}], part[{p}]);",
    "any": "found[{p}] = (found[{p}] != 0) | (part[{p}] != 0);",
}

_STAGE = """
static void stage{s}(const Numbers& c, void* const* at, int64_t n, int64_t begin, int64_t length, const double* found, double* part) {{
    {pointers}
    {before}
    {start}{several}
    for (int64_t b = {from_}; b < length; b += {block}) {{
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

_SEVERAL = """
    const int64_t stride = length / ({streams} * 16) * 16;
    for (int64_t b = 0; b < stride; b += {block}) {{
        const int64_t end = stride - b < {block} ? stride : b + {block};
        {zero}
        #pragma omp simd {clauses}
        for (int64_t j = b; j < end; ++j) {{
            {inside}
        }}
        {flush}
    }}"""

_SPLIT = """
    #pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (num_split > 1)
    for (int64_t j = 0; j < num_split; ++j) {{
        const int64_t k = {place};
        const int64_t t = split[3 * k];
        void* at[ARRAYS];
        for (int i = 0; i < ARRAYS; ++i) at[i] = (void*)arrays[i][t];
        stage{s}(c, at, sizes[t], split[3 * k + 1], split[3 * k + 2], &sums[t * SUMS], &parts[k * SUMS]);
    }}
    for (int64_t k = 0; k < num_split; ++k) {{
        if (split[3 * k + 1] == 0) begin{s}(&sums[split[3 * k] * SUMS]);
        add{s}(&sums[split[3 * k] * SUMS], &parts[k * SUMS]);
    }}"""

HELPERS = """template <class T, class F> INLINE T bits_as(F x) { union { F from; T to; } both; both.from = x; return both.to; }
INLINE float widen(uint16_t x) { return bits_as<float>((uint32_t)x << 16); }
INLINE float rounded(float f) {  // to the nearest bfloat16, ties to even
    const uint32_t w = bits_as<uint32_t>(f);
    return bits_as<float>(f != f ? 0x7fc00000u : (w + 0x7fffu + ((w >> 16) & 1u)) & 0xffff0000u);
}
INLINE uint16_t narrow(float f) { return (uint16_t)(bits_as<uint32_t>(f) >> 16); }
template <class T> INLINE T larger(T x, T y) { return (x > y) | (x != x) ? x : y; }
template <class T> INLINE T smaller(T x, T y) { return (x < y) | (x != x) ? x : y; }
template <class T> INLINE T sign_of(T x) { return (T)((T)(x > 0) - (T)(x < 0)); }
template <class T> INLINE T floor_quotient(T x, T y) {
    if (y == 0) return x / y;
    const T rest = fmod_(x, y), whole = (x - rest) / y - ((rest != 0) & ((rest < 0) != (y < 0)) ? 1 : 0);
    if (whole == 0) return copysign_((T)0, x / y);
    const T down = floor_(whole);
    return whole - down > (T)0.5 ? down + 1 : down;
}
template <class T> INLINE T remainder_of(T x, T y) {
    T r = fmod_(x, y); return (r != 0) & ((r < 0) != (y < 0)) ? r + y : r;
}
"""
"""What the words of an operation may call; ``INLINE`` is how a program writes a function."""

_PROGRAM = """// written by fallline.core.loops
// no headers: reading them would take longer than compiling the rest
typedef __INT32_TYPE__ int32_t; typedef __INT64_TYPE__ int64_t; typedef __UINT16_TYPE__ uint16_t; typedef __UINT32_TYPE__ uint32_t;
#define INLINE static inline
#define FUNCTION(name) static inline float name##_(float x) {{ return __builtin_##name##f(x); }} \
    static inline double name##_(double x) {{ return __builtin_##name(x); }}
#define FUNCTION2(name) static inline float name##_(float x, float y) {{ return __builtin_##name##f(x, y); }} \
    static inline double name##_(double x, double y) {{ return __builtin_##name(x, y); }}
FUNCTION(fabs) FUNCTION(sqrt) FUNCTION(exp) FUNCTION(expm1) FUNCTION(log) FUNCTION(log1p) FUNCTION(sin) FUNCTION(cos) FUNCTION(tanh)
FUNCTION(floor) FUNCTION(ceil) FUNCTION(trunc) FUNCTION(nearbyint) FUNCTION2(pow) FUNCTION2(fmod) FUNCTION2(copysign)
static const int SUMS = {num_sums}, ARRAYS = {num_arrays}, TOTALS = {totals};
{helpers}
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
    double* sums = (double*)__builtin_malloc(sizeof(double) * (num_tensors + num_split + 1) * SUMS);
    double* parts = sums + num_tensors * SUMS;
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
    __builtin_free(sums);
}}
"""
