"""Steps that two or more methods share, one idea a file."""

from fallline.transforms.average import average, average_ema
from fallline.transforms.cautious import cautious
from fallline.transforms.centralise import centralise
from fallline.transforms.clip import (
    clip_by_global_norm,
    clip_by_norm,
    clip_by_quantile,
    clip_by_rms,
    clip_by_unit_norm,
    clip_by_value,
)
from fallline.transforms.correct import correct
from fallline.transforms.decay import add_l2, decay, proximal_decay
from fallline.transforms.descend import descend
from fallline.transforms.feedback import compress_to_signs
from fallline.transforms.gate import every, masked, switch
from fallline.transforms.median import track_median
from fallline.transforms.momentum import momentum
from fallline.transforms.noise import add_noise
from fallline.transforms.normalise import normalise
from fallline.transforms.orthogonalise import orthogonalise
from fallline.transforms.predict import predict
from fallline.transforms.radial import project_radial
from fallline.transforms.random_scaling import random_scaling
from fallline.transforms.recursive import recursive_gradient
from fallline.transforms.robust import median_of_means, winsorised_mean
from fallline.transforms.schedule_free import schedule_free
from fallline.transforms.signal_to_noise import scale_by_signal_to_noise
from fallline.transforms.slow_weights import slow_weights
from fallline.transforms.steepest import sign, steepest
from fallline.transforms.trust import trust

__all__ = [
    "add_l2",
    "add_noise",
    "average",
    "average_ema",
    "cautious",
    "centralise",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_quantile",
    "clip_by_rms",
    "clip_by_unit_norm",
    "clip_by_value",
    "compress_to_signs",
    "correct",
    "decay",
    "descend",
    "every",
    "masked",
    "median_of_means",
    "momentum",
    "normalise",
    "orthogonalise",
    "predict",
    "project_radial",
    "proximal_decay",
    "random_scaling",
    "recursive_gradient",
    "scale_by_signal_to_noise",
    "schedule_free",
    "sign",
    "slow_weights",
    "steepest",
    "switch",
    "track_median",
    "trust",
    "winsorised_mean",
]
