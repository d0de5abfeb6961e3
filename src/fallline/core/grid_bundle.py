"""Bundles on a GPU: all tensors of a group, stepped where they lie by a few launches, with nothing read back."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fallline.core.bundle import Bundle, Function
from fallline.core.grids import CHUNK, GPU, HEADER, THREADS, Grid
from fallline.core.kernel import Numbers
from fallline.core.loops import Dialect, NotExpressible
from fallline.core.nvrtc import build

__all__ = ["GridBundle", "GridFunction", "GridTable"]


def current_device() -> torch.device | None:
    """The GPU that torch uses now, if there is one."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else None


class GridFunction(Function):
    """Kernels, built for a device when they are first called there."""

    dialect: ClassVar[Dialect] = GPU

    def __init__(self, loops: Grid, known: tuple[str, ...]) -> None:
        self.loops, self.known = loops, known
        self._pack = struct.Struct(f"{len(HEADER) + len(loops.keys) + loops.num_given}Q{loops.num_given}d")
        device = current_device()
        if device is not None:
            self.module(device)  # now, and not in the first step

    def module(self, device: torch.device) -> Any:
        """The kernels on a device."""
        found = build(self.loops.source, self.loops.kernels, device.index)
        if found is None:
            raise NotExpressible("no compiler that works")
        return found

    def __call__(  # type: ignore[override]
        self, table: GridTable, numbers: Numbers, hypers: Sequence[Any], ok: Tensor | None = None
    ) -> Tensor:
        """Run on the tensors of a table, in place, unless ``ok`` is there and false; returns what is summed over them, float64."""
        grid, device = self.loops, table.device
        totals = torch.empty(max(1, grid.num_totals), dtype=torch.float64, device=device)
        scratch = table.scratch(grid)
        # What lies on the device stays there: reading it would stall the device.
        places: list[Tensor | None] = []
        values: list[float] = []
        for x in (*(numbers[k] for k in self.known), *hypers):
            there = isinstance(x, Tensor) and x.device.type != "cpu"
            places.append(x.detach().to(device, torch.float64) if there else None)
            values.append(0.0 if there else float(x))
        header = {
            **table.header,
            **scratch,
            "totals": totals.data_ptr(),
            "ok": 0 if ok is None else ok.data_ptr(),
        }
        missing = grid.num_given - len(values)
        addresses = [0 if x is None else x.data_ptr() for x in places] + [0] * missing
        given = self._pack.pack(
            *(header[name] for name in HEADER), *table.rows(grid.keys), *addresses, *values, *[0.0] * missing
        )
        arguments = ctypes.create_string_buffer(given, len(given))
        module = self.module(device)
        blocks = {"one": 1, "chunks": table.num_chunks, "tensors": table.num_tensors}
        for name, many in grid.launches:
            module.launch(name, blocks[many], THREADS, arguments)
        return totals[: grid.num_totals]


class GridTable:
    """Where the tensors lie, in the memory of their device."""

    def __init__(self, sizes: Sequence[int], device: torch.device) -> None:
        self.device, self.num_tensors, self.num_elements = device, len(sizes), sum(sizes)
        chunks: list[int] = []
        first = [0]
        for t, size in enumerate(sizes):
            for begin in range(0, size, CHUNK):
                chunks += (t, begin, min(CHUNK, size - begin))
            first.append(len(chunks) // 3)
        self.num_chunks = first[-1]
        self._kept = {"sizes": self._there(sizes), "chunks": self._there(chunks), "first_chunk": self._there(first)}
        self.header = {name: x.data_ptr() for name, x in self._kept.items()} | {"num_tensors": len(sizes)}
        self._addresses: dict[str, list[int]] = {}
        self._rows: dict[str, Tensor] = {}
        self._room: dict[tuple[str, int], Tensor] = {}

    def _there(self, values: Sequence[int]) -> Tensor:
        """Numbers on the device, on their way without anybody waiting for them."""
        if self.device.type == "cpu":
            return torch.tensor(values, dtype=torch.int64, device="cpu")
        on_the_host = torch.tensor(values, dtype=torch.int64, device="cpu", pin_memory=True)
        return on_the_host.to(self.device, non_blocking=True)

    def put(self, key: str, addresses: Sequence[int]) -> None:
        """Where an array of every tensor begins."""
        if self._addresses.get(key) != addresses:
            self._addresses[key] = list(addresses)
            self._rows[key] = self._there(addresses)

    def rows(self, keys: Sequence[str]) -> list[int]:
        """Where the addresses of some arrays lie; 0 for an array that no kernel of this call touches."""
        return [self._rows[key].data_ptr() if key in self._rows else 0 for key in keys]

    def scratch(self, grid: Grid) -> dict[str, int]:
        """Memory for what one kernel leaves to the next. All calls may share it, since they run one after the other."""
        lengths = {
            "numbers": grid.num_fields,
            "sums": grid.num_sums * self.num_tensors,
            "parts": grid.num_sums * self.num_chunks,
        }
        for name, length in lengths.items():
            if (name, length) not in self._room:
                self._room[name, length] = torch.empty(length, dtype=torch.float64, device=self.device)
        return {name: self._room[name, length].data_ptr() for name, length in lengths.items()}


class GridBundle(Bundle):
    """Tensors of one device, dtype and step count, with the plan that steps them."""

    way = "kernels for all tensors at once"
    function: ClassVar[type[Function]] = GridFunction

    def _make_table(self, sizes: Sequence[int]) -> GridTable:
        return GridTable(sizes, self.p.device)

    def _call(self, function: Any, numbers: Numbers, hypers: Sequence[Any]) -> None:
        ok = numbers.get("ok")
        function(self._table, numbers, hypers, None if ok is None else ok.to(self.p.device))
