"""What we hold ourselves to, as data, and whether a run of the benchmark meets it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import fallline.methods  # noqa: F401 (fills the registry)
from fallline.bench.peers import FOR_LOOP
from fallline.bench.rows import Row
from fallline.core.execute import UNCOMPILED
from fallline.core.method import METHODS
from fallline.core.types import Reach

__all__ = ["TARGETS", "Outcome", "Target", "judge"]

Measure = Literal["per_byte", "ratio", "to_foreach", "to_gemm", "to_peer", "to_loop", "copied", "compile"]


@dataclass(frozen=True)
class Target:
    """An upper limit for one number of some rows; the worst of them decides."""

    text: str
    measure: Measure
    limit: float
    applies: Callable[[Row], bool]


@dataclass(frozen=True)
class Outcome:
    """A target and what came out: the worst value and whose it is; None if no row was there to judge."""

    target: Target
    value: float | None
    whose: str
    missed: int
    judged: int

    @property
    def met(self) -> bool | None:
        return None if self.value is None else self.missed == 0

    @property
    def line(self) -> str:
        """``met`` or ``missed by ...``, the target, and the row that decided."""
        if self.value is None:
            return f"{'not measured':<18}{self.target.text}"
        unit = " s" if self.target.measure == "compile" else ""
        worst = f"worst {self.value:.2f}{unit}, {self.whose}"
        if self.met:
            return f"{'met':<18}{self.target.text}: {worst}"
        if math.isinf(self.value):
            return f"{'missed, failed':<18}{self.target.text}: {self.whose}"
        times = self.value / self.target.limit
        excess = f"missed by {times - 1:.0%}" if times < 2 else f"missed by {times:.1f} x"
        return f"{excess:<18}{self.target.text}: {self.missed} of {self.judged}, {worst}"


def _row(
    layout: str,
    *sets: str,
    path: str = "loop",
    methods: Sequence[str] = (),
    reach: Reach | None = None,
    device: str = "cpu",
) -> Callable[[Row], bool]:
    """Our rows in one layout, on these sets (all if none), with gradients by this path."""

    def applies(row: Row) -> bool:
        return (
            row.by == "fallline"
            and row.device == device
            and (row.layout == layout or (layout == "compiled" and row.layout not in UNCOMPILED))
            and (not sets or row.set in sets)
            and row.path in (path, "both")
            and (not methods or row.method in methods)
            and (reach is None or METHODS[row.method].reach == reach)
        )

    return applies


TARGETS = (
    Target(
        "auto, every ELEMENT method <= 1.05 x fused AdamW per byte moved on large and gpt2",
        "per_byte", 1.05, _row("auto", "large", "gpt2", reach=Reach.ELEMENT),
    ),
    Target(
        "auto, AdamW <= 1.15 x fused AdamW in time on large and gpt2",
        "ratio", 1.15, _row("auto", "large", "gpt2", methods=["adamw"]),
    ),
    Target(
        "auto, AdamW <= 0.2 x fused AdamW on small, training loop",
        "ratio", 0.2, _row("auto", "small", methods=["adamw"]),
    ),
    Target(
        "auto, AdamW <= 0.8 x fused AdamW on small, given gradients",
        "ratio", 0.8, _row("auto", "small", path="given", methods=["adamw"]),
    ),
    Target("blocks <= torch foreach of the same method", "to_foreach", 1.0, _row("blocks")),
    Target(
        "blocks, every ELEMENT method <= 0.5 x fused AdamW on small",
        "ratio", 0.5, _row("blocks", "small", reach=Reach.ELEMENT),
    ),
    Target(
        "auto, LAMB and LARS <= 1.5 x fused AdamW on large and gpt2",
        "ratio", 1.5, _row("auto", "large", "gpt2", methods=["lamb", "lars"]),
    ),
    Target(
        "auto, Muon <= 1.3 x its products of matrices on gpt2",
        "to_gemm", 1.3, _row("auto", "gpt2", methods=["muon"]),
    ),
    Target("auto, Muon <= the fastest peer", "to_peer", 1.0, _row("auto", methods=["muon"])),
    Target(
        "auto, Muon <= 0.2 x the fastest peer that goes tensor by tensor, as it is, on small",
        "to_loop", 0.2, _row("auto", "small", methods=["muon"]),
    ),
    Target("auto, Shampoo and SOAP <= the fastest peer", "to_peer", 1.0, _row("auto", methods=["shampoo", "soap"])),
    Target(
        "on a GPU, auto, every ELEMENT method <= 1.11 x a copy of the bytes it moves on gpt2 and billion",
        "copied", 1 / 0.9, _row("auto", "gpt2", "billion", reach=Reach.ELEMENT, device="cuda"),
    ),
    Target(
        "first step <= 5 s longer than a later one, once the compiler has started",
        "compile", 5.0, _row("compiled"),
    ),
)  # fmt: skip


def judge(rows: Sequence[Row], targets: Sequence[Target] = TARGETS) -> list[Outcome]:
    """Every target against the rows it is about; a step of ours that failed misses its targets."""
    return [_judge(target, rows) for target in targets]


def _judge(target: Target, rows: Sequence[Row]) -> Outcome:
    values = [(value, row) for row in rows if target.applies(row) and (value := _value(target, row, rows)) is not None]
    if not values:
        return Outcome(target, None, "", 0, 0)
    value, row = max(values, key=lambda pair: pair[0])
    missed = sum(v > target.limit for v, _ in values)
    return Outcome(target, value, f"{row.method} {row.layout} on {row.set}", missed, len(values))


def _value(target: Target, row: Row, rows: Sequence[Row]) -> float | None:
    if row.error:
        return math.inf
    if target.measure == "to_foreach":
        return _against(row, [r for r in rows if (r.by, r.layout) == ("torch", "foreach")])
    if target.measure == "to_peer":
        return _against(row, [r for r in rows if r.by != "fallline"])
    if target.measure == "to_loop":
        return _against(row, [r for r in rows if r.by != "fallline" and r.layout == FOR_LOOP])
    if target.measure == "to_gemm":
        return row.to_gemm
    values = {"per_byte": row.per_byte, "ratio": row.ratio, "copied": row.copied, "compile": row.first - row.median}
    return values[target.measure]


def _against(row: Row, others: Sequence[Row]) -> float | None:
    """Times the fastest of others' rows of the same method, set and gradients; both are ratios to the reference beside them."""
    same = [r.ratio for r in others if not r.error and _comparable(r, row)]
    return row.ratio / min(same) if same else None


def _comparable(theirs: Row, ours: Row) -> bool:
    paths = {theirs.path, ours.path}
    return (theirs.method, theirs.set) == (ours.method, ours.set) and (len(paths) == 1 or "both" in paths)
