"""The loss around a solution: slices, paths between minima, matching of units, sharpness."""

from __future__ import annotations

__all__: list[str] = []
