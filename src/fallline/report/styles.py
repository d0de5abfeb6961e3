"""A page with many figures, made smaller: styles that many elements share become classes."""

from __future__ import annotations

import re
from collections import Counter

__all__ = ["share_styles"]

FEWEST = 20
_ELEMENT = re.compile(r'<(path|use|text|g|tspan)\b((?:(?! class=)[^<>])*?) style="([^"]*)"')


def share_styles(page: str) -> str:
    """The same page; inside its figures a style that stands there 20 times or more is written once, as a class."""
    counts = Counter(match[3] for match in _ELEMENT.finditer(page))
    frequent = sorted((style for style, n in counts.items() if n >= FEWEST), key=lambda style: (-counts[style], style))
    names = {style: f"y{i}" for i, style in enumerate(frequent)}

    def shared(match: re.Match[str]) -> str:
        name = names.get(match[3])
        return match[0] if name is None else f'<{match[1]}{match[2]} class="{name}"'

    rules = "\n".join(f"svg .{name} {{ {style} }}" for style, name in names.items())
    return _ELEMENT.sub(shared, page).replace("</style>", f"{rules}\n</style>", 1)
