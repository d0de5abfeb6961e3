"""Continuous time: gradient flow and what methods follow instead, solvers, stochastic equations, stability of any chain."""

from __future__ import annotations

from fallline.flows.linear_stability import Stability, stability
from fallline.flows.noise_stability import SgdStability, coherence, sgd_stability

__all__ = ["SgdStability", "Stability", "coherence", "sgd_stability", "stability"]
