"""What a network needs to be trainable: initialisation, normalisation, residual scaling, and a look at its signal."""

from __future__ import annotations

__all__: list[str] = []
