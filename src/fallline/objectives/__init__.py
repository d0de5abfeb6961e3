"""What is minimised: flat minima, gradient penalties, tilted and robust losses, several losses at once; oracles around oracles."""

from __future__ import annotations

__all__: list[str] = []
