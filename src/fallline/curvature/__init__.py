"""Curvature as linear operators on named tensors: Hessian, Gauss-Newton, Fisher, spectra, traces, and gradient noise."""

from __future__ import annotations

__all__: list[str] = []
