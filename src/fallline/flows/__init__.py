"""Continuous time: gradient flow and what methods follow instead, solvers, stochastic equations, stability of any chain."""

from __future__ import annotations

from fallline.flows.adaptive import adam_flow, modified_adam_flow, sign_flow
from fallline.flows.central import CentralPath, central_path, self_stabilisation, sharpness_gradient
from fallline.flows.compare import Comparison, compare, follow
from fallline.flows.descent import gradient_flow, modified_field, modified_flow, modified_loss
from fallline.flows.fields import Field, FlatLoss, Loss, flat_loss, hvp, top_eigenpairs
from fallline.flows.heavy_tails import exit_steps, solve_levy, stable
from fallline.flows.linear_stability import Stability, stability
from fallline.flows.lion_flow import LionFlow
from fallline.flows.models import OrnsteinUhlenbeck, random_walk_shares, sgd_covariance
from fallline.flows.momentum import friction_of, modified_momentum_flow, momentum_flow, second_order_flow
from fallline.flows.noise import AdamNoise, adam_sde, rmsprop_sde, sam_sde, sgd_sde, svag_gradient
from fallline.flows.noise_stability import SgdStability, coherence, sgd_stability
from fallline.flows.principal import (
    dal_path,
    dal_rate,
    principal_coefficients,
    principal_flow,
    principal_path,
    stability_coefficients,
)
from fallline.flows.scalar_networks import flow_solution, flow_solution_sharpness, scalar_loss
from fallline.flows.sde import Sde, brownian, solve_sde
from fallline.flows.shuffling import mean_epoch, shuffled_loss
from fallline.flows.solvers import (
    DORMAND_PRINCE,
    EULER,
    HEUN,
    MIDPOINT,
    RK4,
    Path,
    Tableau,
    heavy_ball_path,
    solve,
    solve_adaptive,
)

__all__ = [
    "DORMAND_PRINCE",
    "EULER",
    "HEUN",
    "MIDPOINT",
    "RK4",
    "AdamNoise",
    "CentralPath",
    "Comparison",
    "Field",
    "FlatLoss",
    "LionFlow",
    "Loss",
    "OrnsteinUhlenbeck",
    "Path",
    "Sde",
    "SgdStability",
    "Stability",
    "Tableau",
    "adam_flow",
    "adam_sde",
    "brownian",
    "central_path",
    "coherence",
    "compare",
    "dal_path",
    "dal_rate",
    "exit_steps",
    "flat_loss",
    "flow_solution",
    "flow_solution_sharpness",
    "follow",
    "friction_of",
    "gradient_flow",
    "heavy_ball_path",
    "hvp",
    "mean_epoch",
    "modified_adam_flow",
    "modified_field",
    "modified_flow",
    "modified_loss",
    "modified_momentum_flow",
    "momentum_flow",
    "principal_coefficients",
    "principal_flow",
    "principal_path",
    "random_walk_shares",
    "rmsprop_sde",
    "sam_sde",
    "scalar_loss",
    "second_order_flow",
    "self_stabilisation",
    "sgd_covariance",
    "sgd_sde",
    "sgd_stability",
    "sharpness_gradient",
    "shuffled_loss",
    "sign_flow",
    "solve",
    "solve_adaptive",
    "solve_levy",
    "solve_sde",
    "stability",
    "stability_coefficients",
    "stable",
    "svag_gradient",
    "top_eigenpairs",
]
