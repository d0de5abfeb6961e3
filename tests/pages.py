"""The Python examples of a documentation page, and running them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

__all__ = ["python_blocks", "run_blocks"]


def python_blocks(text: str) -> list[str]:
    """The code of all fenced blocks of Python, in order."""
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def run_blocks(blocks: Iterable[str], scope: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run the blocks one after the other in one namespace, which is returned."""
    scope = {} if scope is None else scope
    for block in blocks:
        exec(compile(block, f"<{block.strip().splitlines()[0]}>", "exec"), scope)
    return scope
