"""Continuous time: gradient flow and what methods follow instead, solvers, stochastic equations, stability of any chain."""

from __future__ import annotations

__all__: list[str] = []
