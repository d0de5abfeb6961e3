"""Curvature as linear operators on named tensors: Hessian, Gauss-Newton, Fisher, spectra, traces, and gradient noise."""

from __future__ import annotations

from fallline.curvature.batch_size import NoiseScale, critical_batch_size, noise_scale, two_batch_noise_scale
from fallline.curvature.batches import Data, gradient
from fallline.curvature.density import SpectralDensity, spectral_density
from fallline.curvature.eigen import Condition, Eigenpairs, condition_number, eigsh, sharpness
from fallline.curvature.gauss_newton import fisher, ggn
from fallline.curvature.gradients import example_gradients, gradient_covariance, gram, jacobian, ntk
from fallline.curvature.hessian import hessian
from fallline.curvature.noise import (
    GradientStatistics,
    covariance_spectrum,
    gradient_statistics,
    per_example_gradients,
    tail_index,
)
from fallline.curvature.operator import Operator, diagonal, identity, outer
from fallline.curvature.precondition import preconditioned, preconditioner
from fallline.curvature.space import Space
from fallline.curvature.trace import DiagonalEstimate, Estimate, estimate_diagonal, frobenius_norm, trace

__all__ = [
    "Condition", "Data", "DiagonalEstimate", "Eigenpairs", "Estimate", "GradientStatistics", "NoiseScale",
    "Operator", "Space", "SpectralDensity", "condition_number", "covariance_spectrum", "critical_batch_size",
    "diagonal", "eigsh", "estimate_diagonal", "example_gradients", "fisher", "frobenius_norm", "ggn", "gradient",
    "gradient_covariance", "gradient_statistics", "gram", "hessian", "identity", "jacobian", "noise_scale", "ntk",
    "outer", "per_example_gradients", "preconditioned", "preconditioner", "sharpness", "spectral_density",
    "tail_index", "trace", "two_batch_noise_scale",
]  # fmt: skip
