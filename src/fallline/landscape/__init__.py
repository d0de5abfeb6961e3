"""The loss around a solution: slices, paths between minima, matching of units, sharpness."""

from __future__ import annotations

from fallline.landscape.bezier import Bezier, connect
from fallline.landscape.directions import normalise, random_direction
from fallline.landscape.flatness import Flatness, fisher_rao_norm, flatness
from fallline.landscape.layers import symmetry_of
from fallline.landscape.paths import Path, interpolate
from fallline.landscape.points import mix, moved, snapshot
from fallline.landscape.rebasin import Matching, activation_matching, weight_matching
from fallline.landscape.repair import Repaired, repair
from fallline.landscape.slices import Slice1d, Slice2d, slice_1d, slice_2d
from fallline.landscape.symmetry import Site, Symmetry
from fallline.landscape.trajectory import TrajectoryPCA, trajectory_pca, trajectory_slice, walk_shares
from fallline.landscape.worst_case import WorstCase, average_case, epsilon_sharpness, worst_case

__all__ = [
    "Bezier", "Flatness", "Matching", "Path", "Repaired", "Site", "Slice1d", "Slice2d", "Symmetry", "TrajectoryPCA", "WorstCase",
    "activation_matching", "average_case", "connect", "epsilon_sharpness", "fisher_rao_norm", "flatness", "interpolate", "mix",
    "moved", "normalise", "random_direction", "repair", "slice_1d", "slice_2d", "snapshot", "symmetry_of", "trajectory_pca",
    "trajectory_slice", "walk_shares", "weight_matching", "worst_case",
]  # fmt: skip
