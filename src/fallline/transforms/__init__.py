"""Steps that two or more methods share, one idea a file."""

from fallline.transforms.clip import clip_by_global_norm, clip_by_rms, clip_by_value
from fallline.transforms.decay import add_l2, decay, proximal_decay
from fallline.transforms.descend import descend
from fallline.transforms.momentum import momentum
from fallline.transforms.radial import project_radial
from fallline.transforms.trust import trust

__all__ = [
    "add_l2",
    "clip_by_global_norm",
    "clip_by_rms",
    "clip_by_value",
    "decay",
    "descend",
    "momentum",
    "project_radial",
    "proximal_decay",
    "trust",
]
