"""When batch size or width changes: rules for hyperparameters, recipes for large batches, and muP."""

from __future__ import annotations

__all__: list[str] = []
