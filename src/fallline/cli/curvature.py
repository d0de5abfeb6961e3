"""``fallline bench curvature``: the header, then a table for each state of the network, a row as it is measured."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

from rich.text import Text

from fallline.bench.curvature import CurvatureRow, measure_curvature, missing_peers, problem
from fallline.bench.step import num_threads
from fallline.bench.table import header
from fallline.cli.catalogue import check_folder_of, console
from fallline.lab.environment import describe, load_average

__all__ = ["bench_curvature"]

_COLUMNS = ("what", "by", "seconds", "gradients", "products", "per product", "true error")
_WIDTHS = (44, 34, 8, 10, 9, 12, 11)


def bench_curvature(examples: int, quick: bool, threads: int, file: Path | None, command: str) -> int:
    """Measure, print, and write the file."""
    check_folder_of(file)
    out = console()
    about = {"date": time.strftime("%Y-%m-%d %H:%M"), **describe(), "threads": threads, "load": load_average()}
    out.print(header(about))
    rows: list[CurvatureRow] = []
    with num_threads(threads):
        for trained in (False, True):
            at = problem(examples, trained)
            out.print(Text(f"\n{at.state}, {len(at.batch[0])} examples", style="bold"))
            out.print(Text(_line(_COLUMNS)))
            for row in measure_curvature(at, quick=quick):
                rows.append(row)
                out.print(Text(_line(_cells(row))))
    out.print(
        "\nseconds: of the processor. gradients: the same in gradients of the same data, timed just before and after. true error: of the worst value, relative."
    )
    for line in missing_peers():
        out.print(Text(f"left out          {line}"))
    if file is not None:
        content = {"about": {**about, "command": command}, "rows": [asdict(row) for row in rows]}
        file.write_text(json.dumps(content, indent=1, default=str) + "\n")
        out.print(f"Every row is in {file}.")
    return 0


def _cells(row: CurvatureRow) -> tuple[str, ...]:
    if row.failed:
        return row.what, row.by, f"failed: {row.failed}"
    per = f"{row.per_product:.2f}" if row.per_product else ""
    error = "" if row.error is None else f"{row.error:.1e}"
    return row.what, row.by, f"{row.seconds:.3f}", f"{row.gradients:.2f}", str(row.products or ""), per, error


def _line(cells: tuple[str, ...]) -> str:
    return "".join(f"{c:<{w}}" if i < 2 else f"{c:>{w}}" for i, (c, w) in enumerate(zip(cells, _WIDTHS, strict=False)))
