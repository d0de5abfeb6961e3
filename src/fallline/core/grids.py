"""Grids: the stages of a traced segment as kernels of a GPU, each of them one launch for all tensors of a group, where they lie.

Tensors are cut into chunks, and every block of threads takes one. A sum over a tensor is one number for each chunk, added up for each
tensor by the next kernel, always in the same order: two runs agree in every digit. Nothing is read back: what decides whether a
step is taken, or what is summed over all tensors, stays on the device.

The same source is C++, where a block is one thread: so it is tested on machines without a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fallline.core.loops import C_TYPES, FLUSH, HELPERS, START, STORED, Dialect, Emitter, Pass, Settled

__all__ = ["CHUNK", "GPU", "HEADER", "THREADS", "Grid", "emit_grid"]

CHUNK = 2**14
"""Elements that a block of threads takes."""

THREADS = 256
"""Threads of a block."""

VECTOR = 4
"""Elements that a thread reads at once."""

TURNS = 16
"""Readings of a thread whose elements are added in their own type; further sums are in double."""

_FIELDS = {
    "sizes": "const int64_t* sizes;",
    "chunks": "const int64_t* chunks;  // (tensor, begin, length) of each",
    "first_chunk": "const int64_t* first_chunk;  // of each tensor, and one more",
    "num_tensors": "int64_t num_tensors;",
    "numbers": "Numbers* numbers;",
    "sums": "double* sums;",
    "parts": "double* parts;",
    "totals": "double* totals;",
    "ok": "const bool* ok;  // a flag, or nothing: where it is false, nothing is changed",
}

HEADER = tuple(_FIELDS)
"""Words of eight bytes that every kernel gets, before the rows of addresses, the addresses of numbers and the numbers."""


@dataclass(frozen=True)
class Grid:
    """Source of kernels, and how to call them."""

    source: str
    keys: tuple[str, ...]  # arrays, in the order of the rows of addresses
    num_given: int  # numbers that a call is given
    num_fields: int  # words of eight bytes, at most, that ``compute`` leaves for the others
    num_sums: int  # numbers kept for every chunk and every tensor
    launches: tuple[tuple[str, str], ...]  # (kernel, number of its blocks: "one", "chunks" or "tensors")
    num_totals: int  # numbers that are left, each summed over all tensors
    single: bool = False  # whether the trace returned one number by itself

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of all kernels."""
        return tuple(name for name, _ in self.launches)


def emit_grid(emitter: Emitter) -> Grid:
    """The kernels of a graph. A body reads an element in a thread's registers, into which it has been loaded."""
    passes, settled = emitter.read()
    launches = [("compute", "one")]
    kernels = []
    for of in passes:
        kernels.append(_stage(emitter, of))
        launches.append((f"stage{of.stage}", "chunks"))
        if of.sums:
            kernels.append(_combine(of))
            launches.append((f"combine{of.stage}", "tensors"))
    if settled.ends:
        kernels.append(_settle(settled, emitter.totals))
        launches.append(("settle", "one"))
    fields = " ".join(emitter.call_fields) or "char none;"
    source = _PROGRAM.format(
        helpers=HELPERS,
        threads=THREADS,
        vector=VECTOR,
        turns=TURNS,
        num_arrays=len(emitter.keys),
        num_given=max(1, emitter.num_numbers),
        num_sums=max(1, len(emitter.reductions)),
        header="\n    ".join(_FIELDS.values()),
        fields=fields,
        numbers="\n    ".join(emitter.call_lines),
        kernels="\n".join(kernels),
    )
    return Grid(
        source,
        emitter.keys,
        max(1, emitter.num_numbers),
        max(1, len(emitter.call_fields)),
        max(1, len(emitter.reductions)),
        tuple(launches),
        len(settled.ends) if emitter.totals else 0,
        emitter.single,
    )


GPU = Dialect("e{k}[v]", emit_grid)


def _stage(emitter: Emitter, of: Pass) -> str:
    wide = [k for k in of.arrays if emitter.keys[k] in emitter.wide]
    types = {k: STORED[emitter.arrays[emitter.keys[k]].dtype] for k in wide}
    loaded = [k for k in wide if k in of.loaded]
    sums = [(p, r.kind, C_TYPES[r.dtype]) for p, r in of.sums]
    body = [*of.inside, *(f"o{k}[v] = {value};" for k, value in of.written.items())]
    return _STAGE.format(
        s=of.stage,
        pointers="\n    ".join(emitter.pointers(of, " + begin")),
        before="\n    ".join(of.before),
        zero=" ".join(f"{t} r{p} = {START[kind].format(t=t)};" for p, kind, t in sums),
        addresses=" | ".join(f"(unsigned long long)a{k} / sizeof({t})" for k, t in types.items()) or "0",
        registers=" ".join(
            [f"{types[k]} e{k}[VECTOR];" for k in loaded] + [f"{types[k]} o{k}[VECTOR];" for k in of.written]
        ),
        load=" ".join(f"load(e{k}, a{k} + b);" for k in loaded),
        load_one=" ".join(f"e{k}[v] = a{k}[i];" for k in loaded),
        inside="\n                ".join(body),
        store=" ".join(f"store(a{k} + b, o{k});" for k in of.written),
        store_one=" ".join(f"a{k}[i] = o{k}[v];" for k in of.written),
        start=" ".join(f"double s{p} = {START[kind].format(t='double')};" for p, kind, _ in sums),
        flush=" ".join(FLUSH[kind].format(p=p) for p, kind, _ in sums),
        save="\n    ".join(
            f"s{p} = over_threads(s{p}, {kind}_of()); if (THREAD == 0) args.parts[BLOCK * SUMS + {p}] = s{p};"
            for p, kind, _ in sums
        ),
    )


def _combine(of: Pass) -> str:
    lines = [
        f"{{ double x = {START[r.kind].format(t='double')}; "
        f"for (int64_t k = args.first_chunk[t] + THREAD; k < args.first_chunk[t + 1]; k += THREADS) "
        f"x = {r.kind}_of()(x, args.parts[k * SUMS + {p}]); "
        f"x = over_threads(x, {r.kind}_of()); if (THREAD == 0) args.sums[t * SUMS + {p}] = x; }}"
        for p, r in of.sums
    ]
    return _COMBINE.format(s=of.stage, lines="\n    ".join(lines))


def _settle(settled: Settled, totals: bool) -> str:
    ends: Sequence[str] = settled.ends
    if totals:
        ends = [f"q{i} += {x};" for i, x in enumerate(settled.ends)]
    return _SETTLE.format(
        start=" ".join(f"double q{i} = 0;" for i in range(len(ends))) if totals else "",
        lines="\n        ".join([*settled.pointers, *settled.before, *ends]),
        save=" ".join(
            f"q{i} = over_threads(q{i}, sum_of()); if (THREAD == 0) args.totals[{i}] = q{i};" for i in range(len(ends))
        )
        if totals
        else "",
    )


_STAGE = """
KERNEL(stage{s}) {{
    if (args.ok && !*args.ok) return;
    const Numbers c = *args.numbers;
    const int64_t t = args.chunks[3 * BLOCK], begin = args.chunks[3 * BLOCK + 1], length = args.chunks[3 * BLOCK + 2];
    const int64_t n = args.sizes[t];
    const double* found = args.sums + t * SUMS;
    void* at[ARRAYS];
    for (int j = 0; j < ARRAYS; ++j) at[j] = args.rows[j] ? (void*)args.rows[j][t] : nullptr;
    {pointers}
    {before}
    {start}
    const bool aligned = (({addresses}) % VECTOR) == 0;
    for (int64_t first = 0; first < length; first += SPAN) {{
        const int64_t end = length - first < SPAN ? length : first + SPAN;
        {zero}
        for (int64_t b = first + THREAD * VECTOR; b < end; b += THREADS * VECTOR) {{
            {registers}
            if (aligned && b + VECTOR <= end) {{
                {load}
                UNROLL for (int v = 0; v < VECTOR; ++v) {{
                    const int64_t i = b + v;
                    {inside}
                }}
                {store}
            }} else {{
                for (int v = 0; v < VECTOR && b + v < end; ++v) {{
                    const int64_t i = b + v;
                    {load_one}
                    {inside}
                    {store_one}
                }}
            }}
        }}
        {flush}
    }}
    {save}
}}"""

_COMBINE = """
KERNEL(combine{s}) {{
    if (args.ok && !*args.ok) return;
    const int64_t t = BLOCK;
    {lines}
}}"""

_SETTLE = """
KERNEL(settle) {{
    if (args.ok && !*args.ok) return;
    const Numbers c = *args.numbers;
    {start}
    for (int64_t t = THREAD; t < args.num_tensors; t += THREADS) {{
        const int64_t n = args.sizes[t];
        const double* found = args.sums + t * SUMS;
        void* at[ARRAYS];
        for (int j = 0; j < ARRAYS; ++j) at[j] = args.rows[j] ? (void*)args.rows[j][t] : nullptr;
        {lines}
    }}
    {save}
}}"""

_PROGRAM = """// written by fallline.core.grids
#ifdef __CUDACC_RTC__
typedef int int32_t; typedef long long int64_t; typedef unsigned short uint16_t; typedef unsigned int uint32_t;
#define __builtin_inf() __longlong_as_double(0x7ff0000000000000LL)
#define __builtin_nan(text) __longlong_as_double(0x7ff8000000000000LL)
#define INLINE static __device__ __forceinline__
#define INLINE_MEMBER __device__ __forceinline__
#define FUNCTION(name) INLINE float name##_(float x) {{ return name##f(x); }} INLINE double name##_(double x) {{ return name(x); }}
#define FUNCTION2(name) INLINE float name##_(float x, float y) {{ return name##f(x, y); }} \\
    INLINE double name##_(double x, double y) {{ return name(x, y); }}
struct Half {{  // without the header, which need not be there
    uint16_t bits;
    Half() = default;
    INLINE_MEMBER explicit Half(float f) {{ asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(f)); }}
    INLINE_MEMBER operator float() const {{ float f; asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(bits)); return f; }}
}};
#define _Float16 Half
#define KERNEL(name) extern "C" __global__ void __launch_bounds__({threads}) name(const Args args)
#define THREADS {threads}
#define THREAD ((int64_t)threadIdx.x)
#define BLOCK ((int64_t)blockIdx.x)
#define UNROLL _Pragma("unroll")
#define SHARED __shared__
#define TOGETHER __syncthreads()
#else
typedef __INT32_TYPE__ int32_t; typedef __INT64_TYPE__ int64_t; typedef __UINT16_TYPE__ uint16_t; typedef __UINT32_TYPE__ uint32_t;
#define INLINE static inline
#define INLINE_MEMBER inline
#define FUNCTION(name) INLINE float name##_(float x) {{ return __builtin_##name##f(x); }} \\
    INLINE double name##_(double x) {{ return __builtin_##name(x); }}
#define FUNCTION2(name) INLINE float name##_(float x, float y) {{ return __builtin_##name##f(x, y); }} \\
    INLINE double name##_(double x, double y) {{ return __builtin_##name(x, y); }}
static int64_t BLOCK;
#define KERNEL(name) static void run_##name(const Args& args); \\
    extern "C" void name(const Args* args, int64_t blocks) {{ for (BLOCK = 0; BLOCK < blocks; ++BLOCK) run_##name(*args); }} \\
    static void run_##name(const Args& args)
#define THREADS 1
#define THREAD ((int64_t)0)
#define UNROLL
#define SHARED static
#define TOGETHER
#endif
#define VECTOR {vector}
#define SPAN (THREADS * VECTOR * {turns})
FUNCTION(fabs) FUNCTION(sqrt) FUNCTION(exp) FUNCTION(expm1) FUNCTION(log) FUNCTION(log1p) FUNCTION(sin) FUNCTION(cos) FUNCTION(tanh)
FUNCTION(floor) FUNCTION(ceil) FUNCTION(trunc) FUNCTION(nearbyint) FUNCTION2(pow) FUNCTION2(fmod) FUNCTION2(copysign)
#define SUMS {num_sums}
#define ARRAYS {num_arrays}
#define GIVEN {num_given}
{helpers}
template <class T> struct alignas(VECTOR * sizeof(T)) Several {{ T of[VECTOR]; }};
template <class T> INLINE void load(T* to, const T* from) {{
    const Several<T> whole = *(const Several<T>*)from;
    UNROLL for (int v = 0; v < VECTOR; ++v) to[v] = whole.of[v];
}}
template <class T> INLINE void store(T* to, const T* from) {{
    Several<T> whole;
    UNROLL for (int v = 0; v < VECTOR; ++v) whole.of[v] = from[v];
    *(Several<T>*)to = whole;
}}
struct sum_of {{ INLINE_MEMBER double operator()(double x, double y) const {{ return x + y; }} }};
struct amax_of {{ INLINE_MEMBER double operator()(double x, double y) const {{ return larger(x, y); }} }};
struct amin_of {{ INLINE_MEMBER double operator()(double x, double y) const {{ return smaller(x, y); }} }};
struct any_of {{ INLINE_MEMBER double operator()(double x, double y) const {{ return (x != 0) | (y != 0); }} }};
template <class F> INLINE double over_threads(double x, F join) {{  // in thread 0, the same order every time
    SHARED double held[THREADS];
    TOGETHER;
    held[THREAD] = x;
    TOGETHER;
    for (int width = THREADS / 2; width > 0; width /= 2) {{
        if (THREAD < width) held[THREAD] = join(held[THREAD], held[THREAD + width]);
        TOGETHER;
    }}
    return held[0];
}}

struct Numbers {{ {fields} }};
struct Args {{
    {header}
    const int64_t* rows[ARRAYS];  // rows[j][t]: where array j of tensor t lies
    const double* from[GIVEN];  // where a number lies, or nothing:
    double given[GIVEN];  // then it is here
}};
KERNEL(compute) {{
    if (THREAD > 0) return;
    double given[GIVEN];
    for (int i = 0; i < GIVEN; ++i) given[i] = args.from[i] ? *args.from[i] : args.given[i];
    Numbers& c = *args.numbers;
    {numbers}
}}
{kernels}
"""
