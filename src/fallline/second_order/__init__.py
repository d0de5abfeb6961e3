"""Steps that need curvature: Gauss-Newton, Newton and natural gradients, as oracles around an oracle that any optimizer steps with.

solver = egn(of_module(model, F.cross_entropy), damping=levenberg_marquardt(1.0))
optimizer.zero_grad(); solver.backward((inputs, targets)); optimizer.step()
"""

from __future__ import annotations

from fallline.second_order.adafisher import adafisher
from fallline.second_order.bartlett import sophia_g
from fallline.second_order.base import Direction, LevenbergMarquardt, Solver, levenberg_marquardt
from fallline.second_order.conjugate import Solution, conjugate_gradient
from fallline.second_order.eigenpro import KernelModel, eigenpro
from fallline.second_order.gauss_newton import egn
from fallline.second_order.kronecker import ekfac, kfac
from fallline.second_order.low_rank import psgd_lra
from fallline.second_order.newton import newton_cg, regularised_newton
from fallline.second_order.quasi_newton import stochastic_lbfgs, two_loop
from fallline.second_order.saddle_free import saddle_free_newton
from fallline.second_order.singd import singd
from fallline.second_order.teng import project, teng
from fallline.second_order.thermodynamic import tngd

__all__ = [
    "Direction",
    "KernelModel",
    "LevenbergMarquardt",
    "Solution",
    "Solver",
    "adafisher",
    "conjugate_gradient",
    "egn",
    "eigenpro",
    "ekfac",
    "kfac",
    "levenberg_marquardt",
    "newton_cg",
    "project",
    "psgd_lra",
    "regularised_newton",
    "saddle_free_newton",
    "singd",
    "sophia_g",
    "stochastic_lbfgs",
    "teng",
    "tngd",
    "two_loop",
]
