"""What a network needs to be trainable: initialisation, normalisation, residual scaling, and a look at its signal.

Batch, layer, group and instance norm are torch's; here is what torch lacks.
"""

from __future__ import annotations

from fallline.nn.agc import agc_rules
from fallline.nn.attention import Attention
from fallline.nn.conditioning import RowEquilibrated, condition_number, weight_condition
from fallline.nn.embedding import StableEmbedding
from fallline.nn.few_bit import Codebook, FewBit, codebook, saved_bytes
from fallline.nn.fixup import FixupBlock, Scale, Shift, fixup_
from fallline.nn.ghost import GhostBatchNorm, with_ghost_batch_norm, zero_last_gamma
from fallline.nn.init import critical_, delta_orthogonal_, singular_values
from fallline.nn.linear_bn import RmsBatchNorm, isometry_gap, orthogonal_batch_norm_network
from fallline.nn.mean_field import Critical, critical, critical_at, depth_scale, fixed_point, slope, variance_map
from fallline.nn.normalizer_free import NFBlock, betas, nf_resnet
from fallline.nn.propagation import Row, Signal, signal
from fallline.nn.quadrature import gaussian_mean, variance_gain
from fallline.nn.residual import Residual, StochasticDepth, rezero, skip_init, survival
from fallline.nn.smoothness import Smoothness, along_gradient
from fallline.nn.spectral import conv_norm, lipschitz_bound, spectral_normalise, spectral_norms
from fallline.nn.transformer import Transformer, TransformerBlock
from fallline.nn.weight_std import ScaledStandardised, Standardised, scaled_weight_standardise, weight_standardise
from fallline.nn.zloss import cross_entropy_with_z, z_loss

__all__ = [
    "Attention",
    "Codebook",
    "Critical",
    "FewBit",
    "FixupBlock",
    "GhostBatchNorm",
    "NFBlock",
    "Residual",
    "RmsBatchNorm",
    "Row",
    "RowEquilibrated",
    "Scale",
    "ScaledStandardised",
    "Shift",
    "Signal",
    "Smoothness",
    "StableEmbedding",
    "Standardised",
    "StochasticDepth",
    "Transformer",
    "TransformerBlock",
    "agc_rules",
    "along_gradient",
    "betas",
    "codebook",
    "condition_number",
    "conv_norm",
    "critical",
    "critical_",
    "critical_at",
    "cross_entropy_with_z",
    "delta_orthogonal_",
    "depth_scale",
    "fixed_point",
    "fixup_",
    "gaussian_mean",
    "isometry_gap",
    "lipschitz_bound",
    "nf_resnet",
    "orthogonal_batch_norm_network",
    "rezero",
    "saved_bytes",
    "scaled_weight_standardise",
    "signal",
    "singular_values",
    "skip_init",
    "slope",
    "spectral_normalise",
    "spectral_norms",
    "survival",
    "variance_gain",
    "variance_map",
    "weight_condition",
    "weight_standardise",
    "with_ghost_batch_norm",
    "z_loss",
    "zero_last_gamma",
]
