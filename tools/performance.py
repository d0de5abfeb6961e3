"""Write the tables of docs/performance.md from files of ``fallline bench step --json``: ``tools/performance.py FILE ...``.

Files that were measured on a GPU make up the page's second set of tables.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fallline.bench import load
from fallline.bench.table import markdown

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
START, END = "<!-- tables: tools/performance.py -->", "<!-- end of tables -->"
GPU_START, GPU_END = "<!-- tables of a GPU: tools/performance.py -->", "<!-- end of a GPU's tables -->"


def page(text: str, files: Sequence[Path]) -> str:
    """The page with its tables replaced, those of the CPU or those of a GPU."""
    results = [load(file) for file in files]
    on_gpu = {row.device != "cpu" for result in results for row in result.rows} == {True}
    start, end = (GPU_START, GPU_END) if on_gpu else (START, END)
    head, _, rest = text.partition(start)
    tail = rest.partition(end)[2]
    return "\n".join([f"{head}{start}\n", *map(markdown, results), f"{end}{tail}"])


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(), [Path(name) for name in sys.argv[1:]]))
