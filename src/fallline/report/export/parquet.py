"""Two Parquet files: runs.parquet, a row for every run, and curves.parquet, a row for every point of a learning curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fallline.report.export.needs import need
from fallline.report.export.rows import curve_rows, run_rows

__all__ = ["write_parquet"]


def write_parquet(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write both; returns their paths. Raises FalllineError without pyarrow."""
    pyarrow, parquet = need("pyarrow", "parquet"), need("pyarrow.parquet", "parquet")
    made = []
    for name, rows in (("runs", run_rows(results)), ("curves", curve_rows(results))):
        path = folder / f"{name}.parquet"
        temporary = path.with_suffix(".part")
        parquet.write_table(pyarrow.table(_columns(rows)), temporary)
        temporary.replace(path)
        made.append(path)
    return made


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Column by column; what a row lacks is null."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
