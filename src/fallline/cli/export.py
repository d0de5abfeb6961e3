"""``fallline export``: a study in the formats of other tools."""

from __future__ import annotations

from pathlib import Path

from fallline.cli.catalogue import console
from fallline.lab import load_study, write_results

__all__ = ["export_study"]


def export_study(folder: Path, to: str, out: Path | None) -> int:
    """Write the study in ``folder`` in that format, and print where."""
    _, results = load_study(folder)
    home = out or folder
    home.mkdir(parents=True, exist_ok=True)
    if to in ("csv", "json"):
        write_results(results, home)
        made = [home / "results.json"] if to == "json" else [home / "runs.csv", home / "summary.csv"]
    else:
        from fallline.report import export

        made = getattr(export, f"write_{to}")(results, home)
    for path in made:
        console().print(f"{to:<9} {path}", soft_wrap=True)
    return 0
