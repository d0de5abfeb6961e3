"""Write the table of bytes per parameter into docs/precision.md, counted on optimizers: ``python tools/precision.py``.

A test checks that it is fresh.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn

import fallline
from fallline import Optimizer
from fallline.core.formats import FORMATS

PAGE = Path(__file__).parent.parent / "docs" / "precision.md"
METHODS = {"adamw": {}, "sgd": {"momentum": 0.9}, "lion": {}}
KINDS = {
    "float32": (torch.float32, "kahan"),
    "bfloat16, kahan": (torch.bfloat16, "kahan"),
    "bfloat16, stochastic or nearest": (torch.bfloat16, "stochastic"),
}


def table() -> str:
    """Bytes of parameter and state per parameter, of a tensor of a million elements."""
    rows = [f"| parameters, rounding | method | {' | '.join(FORMATS)} |", f"| --- | --- |{' ---: |' * len(FORMATS)}"]
    for kind, (dtype, rounding) in KINDS.items():
        for name, values in METHODS.items():
            cells = [f"{_bytes(name, values, dtype, rounding, form):.2f}" for form in FORMATS]
            rows.append(f"| {kind} | {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _bytes(name: str, values: dict[str, float], dtype: torch.dtype, rounding: str, form: str) -> float:
    p = nn.Parameter(torch.zeros(1024, 1024, dtype=dtype))
    chain = fallline.METHODS[name](**values)
    held = Optimizer([p], chain, state_format=form, rounding=rounding).state[p].values()  # type: ignore[arg-type]
    return sum(v.numel() * v.element_size() for v in (p, *held)) / p.numel()


def filled(text: str) -> str:
    """The page with the table of this version."""
    block = f"<!-- bytes: tools/precision.py -->\n\n{table()}\n\n<!-- end of bytes -->"
    return re.sub(r"<!-- bytes: .*?<!-- end of bytes -->", lambda _: block, text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
