"""The benchmark's numbers as cells of text, for the terminal and for Markdown alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fallline.bench.memory import Extra
from fallline.bench.rows import Row
from fallline.bench.step import Result
from fallline.bench.targets import judge

__all__ = ["COLUMNS", "MEMORY_COLUMNS", "cells", "header", "markdown", "memory_cells", "numel_text"]

COLUMNS = (
    "method", "by", "gradient", "ms", "min", "max", "x fused AdamW", "25-75 %", "beside ms", "first s",
    "bytes", "GB/s", "x copy", "x in place", "x per byte", "x gemm",
)  # fmt: skip
MEMORY_COLUMNS = ("method", "by", "state", "step's peak", "kept")

_PATHS = {"loop": "loop", "given": "given", "both": "either"}


def cells(row: Row) -> list[str]:
    """A row's cells; one that failed has only its name, and its reason where the first number would stand."""
    start = [row.method, row.name, _PATHS[row.path]]
    if row.error:
        return [row.method, row.name, "failed", *[""] * (len(COLUMNS) - 3)]
    low, high = row.quartiles
    return [
        *start, _ms(row.median), _ms(min(row.times)), _ms(max(row.times)), f"{row.ratio:.2f}", f"{low:.2f}-{high:.2f}",
        _beside(row), f"{row.first:.2f}", _bytes(row),
        f"{row.bandwidth / 1e9:.1f}", f"{row.to_copy:.2f}", f"{row.to_in_place:.2f}",
        f"{row.per_byte:.2f}", "" if row.to_gemm is None else f"{row.to_gemm:.2f}",
    ]  # fmt: skip


def _beside(row: Row) -> str:
    """The backward pass; on a GPU, where that is not what a step waits for, the host's part."""
    beside = row.host or (row.backward if row.path != "given" else ())
    return _ms(sorted(beside)[len(beside) // 2]) if beside else ""


def _bytes(row: Row) -> str:
    return f"{row.bytes}+{row.guard_bytes}" if row.guard_bytes else str(row.bytes)


def memory_cells(extra: Extra) -> list[str]:
    """Bytes per parameter, as text."""
    if extra.error:
        return [extra.method, extra.name, "", "failed", ""]
    return [extra.method, extra.name, f"{extra.state:g}", f"{extra.peak:.2f}", f"{extra.kept:.2f}"]


def header(about: Mapping[str, object]) -> str:
    """Where and when, in two lines."""
    started = about.get("compiler_start")
    return (
        f"{about['date']}, {about['processor']}, {about['cores']} cores, {about['threads']} thread{'s' if about['threads'] != 1 else ''}, "
        f"load {about['load']}{'' if about.get('device', 'cpu') == 'cpu' else ', ' + str(about['device'])}\n"
        f"torch {about['torch']}, Python {about['python']}, fallline {about['fallline']} ({about['revision']}), float32"
        + (f"; the compiler took {started:.1f} s to start" if isinstance(started, float) else "")
    )


def numel_text(row: Row) -> str:
    """``large: 16.8 M parameters, 15 rounds``, with the speed of the memory in those rounds."""
    copy, in_place = sorted(row.copy)[len(row.copy) // 2], sorted(row.in_place)[len(row.in_place) // 2]
    return (
        f"{row.set}: {row.numel / 1e6:.2f} M parameters, {len(row.times)} rounds; memory copies {copy / 1e9:.1f} GB/s, "
        f"changes in place {in_place / 1e9:.1f} GB/s"
    )


def markdown(result: Result) -> str:
    """The tables of docs/performance.md."""
    parts = [f"`{result.about['command']}`", "", header(result.about).replace("\n", "; ") + ".", ""]
    for name in dict.fromkeys(row.set for row in result.rows):
        rows = [row for row in result.rows if row.set == name]
        parts += [f"**{numel_text(rows[0])}**", "", *_table(COLUMNS, [cells(row) for row in rows]), ""]
        parts += [f"- {row.name} {row.method} failed: {row.error}" for row in rows if row.error]
    for name in dict.fromkeys(extra.set for extra in result.memory):
        extras = [extra for extra in result.memory if extra.set == name]
        parts += [f"**{name}**, bytes per parameter", "", *_table(MEMORY_COLUMNS, map(memory_cells, extras)), ""]
    if result.left_out:
        parts += ["", *(f"- left out: {line}" for line in result.left_out)]
    if result.rows:
        parts += ["", "Targets:", "", "```", *(o.line for o in judge(result.rows) if o.value is not None), "```"]
    return "\n".join(parts) + "\n"


def _table(columns: Sequence[str], rows: object) -> list[str]:
    body = [list(row) for row in rows]  # type: ignore[attr-defined]
    align = ["---" if c in ("method", "by", "gradient") else "---:" for c in columns]
    return ["| " + " | ".join(row) + " |" for row in ([*columns], align, *body)]


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 0.1 else f"{1e3 * seconds:.0f}"
