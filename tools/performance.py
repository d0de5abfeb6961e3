"""Write the tables of docs/performance.md from files of ``fallline bench step --json``: ``tools/performance.py FILE ...``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fallline.bench import load
from fallline.bench.table import markdown

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
START, END = "<!-- tables: tools/performance.py -->", "<!-- end of tables -->"


def page(text: str, files: Sequence[Path]) -> str:
    """The page with its tables replaced."""
    head, _, rest = text.partition(START)
    tail = rest.partition(END)[2]
    return "\n".join([f"{head}{START}\n", *(markdown(load(file)) for file in files), f"{END}{tail}"])


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(), [Path(name) for name in sys.argv[1:]]))
