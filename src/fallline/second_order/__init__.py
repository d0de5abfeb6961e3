"""Steps that need curvature: Gauss-Newton, Newton and natural gradients, as oracles around an oracle that any optimizer steps with.

solver = egn(of_module(model, F.cross_entropy), damping=levenberg_marquardt(1.0))
optimizer.zero_grad(); solver.backward((inputs, targets)); optimizer.step()
"""

from __future__ import annotations

from fallline.second_order.base import LevenbergMarquardt, Solver, levenberg_marquardt
from fallline.second_order.gauss_newton import egn

__all__ = ["LevenbergMarquardt", "Solver", "egn", "levenberg_marquardt"]
