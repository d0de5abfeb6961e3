"""A row of the benchmark: the times of one contender on one set, and every number that follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np

__all__ = ["REFERENCE_BYTES", "Path", "Row"]

Path = Literal["loop", "given", "both"]

REFERENCE_BYTES = 28
"""Bytes that AdamW must move per float32 parameter."""


@dataclass(frozen=True)
class Row:
    """One contender on one parameter set. Series have an entry per round; those of a round were taken side by side.

    ``path`` says where gradients come from: ``loop``, written by autograd into what ``zero_grad()`` left; ``given``,
    tensors assigned to ``.grad``; ``both`` where the optimizer leaves None, so that there is no difference.
    """

    set: str
    numel: int
    method: str
    by: str
    layout: str
    path: Path
    bytes: int  # per parameter
    first: float = 0.0  # seconds to build and to take the first step, compilation included
    times: tuple[float, ...] = ()  # seconds of zero_grad() and step()
    backward: tuple[float, ...] = ()  # seconds of the backward pass, or of assigning gradients
    reference: tuple[float, ...] = ()  # seconds of the reference in the same rounds
    copy: tuple[float, ...] = ()  # bytes a second of copy_ in the same rounds
    in_place: tuple[float, ...] = ()  # bytes a second of mul_ in the same rounds
    flops: float = 0.0  # of the products of matrices in a step, as torch counts them; dear work that is seldom due is not among them
    gemm: tuple[float, ...] = ()  # operations a second of a large product in the same rounds
    error: str = ""
    device: str = "cpu"
    host: tuple[float, ...] = ()  # on a GPU, seconds of the host's; the GPU's work is behind them
    guard_bytes: int = 0  # per parameter; read to know that every gradient is finite before anything changes

    @property
    def name(self) -> str:
        return f"{self.by} {self.layout}".strip()

    @property
    def median(self) -> float:
        return float(np.median(self.times))

    @property
    def ratios(self) -> np.ndarray:
        """Times of the reference's, round by round."""
        return np.array(self.times) / np.array(self.reference)

    @property
    def ratio(self) -> float:
        """THE ratio: the median over rounds of time to the reference's time. Drift of the machine cancels in it."""
        return float(np.median(self.ratios))

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between these lie the middle half of the ratios."""
        low, high = np.quantile(self.ratios, (0.25, 0.75))
        return float(low), float(high)

    @property
    def ratio_of_medians(self) -> float:
        return self.median / float(np.median(self.reference))

    @property
    def per_byte(self) -> float:
        """The ratio, each side divided by the bytes it must move, the guard's reading included."""
        return self.ratio * REFERENCE_BYTES / (self.bytes + self.guard_bytes)

    @property
    def bandwidth(self) -> float:
        """Bytes a second: those that the method must move, over the median time."""
        return self.bytes * self.numel / self.median

    @property
    def to_copy(self) -> float:
        """Times the memory floor: how long copy_ would have taken to move the same bytes, in the same round."""
        return self._to_floor(self.copy)

    @property
    def copied(self) -> float:
        """Times as long as a copy of all bytes that it moves, the guard's reading included."""
        return self.to_copy * self.bytes / (self.bytes + self.guard_bytes)

    @property
    def to_in_place(self) -> float:
        """Times the second floor, that of an in-place mul_."""
        return self._to_floor(self.in_place)

    @property
    def to_gemm(self) -> float | None:
        """Times the floor of products: how long they would have taken at the rate of a large one. None for steps without."""
        if not self.flops or not self.gemm:
            return None
        return float(np.median(np.array(self.times) * np.array(self.gemm))) / self.flops

    def _to_floor(self, speed: Sequence[float]) -> float:
        return float(np.median(np.array(self.times) * np.array(speed))) / (self.bytes * self.numel)

    def to_dict(self) -> dict[str, Any]:
        """What a file keeps: every round, and beside it, for readers, what follows."""
        raw = {k: [float(f"{x:.5g}") for x in v] if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        if self.error:
            return {**raw, "derived": {}}
        low, high = self.quartiles
        derived = {
            "median": self.median, "min": min(self.times), "max": max(self.times), "ratio": self.ratio,
            "ratio_25": low, "ratio_75": high, "ratio_of_medians": self.ratio_of_medians, "per_byte": self.per_byte,
            "bytes_per_second": self.bandwidth, "to_copy": self.to_copy, "to_in_place": self.to_in_place,
        }  # fmt: skip
        if self.to_gemm is not None:
            derived["to_gemm"] = self.to_gemm
        return {**raw, "derived": {k: float(f"{v:.5g}") for k, v in derived.items()}}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Row:
        """The row of ``to_dict``; derived numbers are derived again."""
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items() if k in known}
        return cls(**values)
