"""Least squares with a Hessian whose spectrum is prescribed: what theory says exactly can be seen exactly.

128 equations in 64 unknowns, A x = b, solvable without error. The Hessian A^T A / 128 has eigenvalues from 1 to 1e-4, evenly
spaced on a logarithmic scale, and eigenvectors far from the axes (columns of a Hadamard matrix with random signs), so that
scales for each coordinate do not help. The batch is all of the data. SGD diverges beyond a rate of 2 = 2 / L.

The solution is no zero, so weight decay does not help; the metric is the decimal logarithm of the loss, on the data itself:
this is optimisation alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fallline.core.space import log
from fallline.tasks.data import Arrays
from fallline.tasks.datasets import Batch, Tensors
from fallline.tasks.entry import Entry
from fallline.tasks.generated import Generated
from fallline.tasks.task import Metric

__all__ = ["QUADRATIC"]

ROWS, DIMENSION, CONDITION = 128, 64, 1e4
SCALE = 2.0**20  # stored in fixed point
FLOOR = 1e-12  # about the square of float32's rounding


def linear() -> nn.Module:
    """64 unknowns, normal with deviation 0.1 at the start."""
    layer = nn.Linear(DIMENSION, 1, bias=False)
    nn.init.normal_(layer.weight, std=0.1)
    return layer


def half_squares(model: nn.Module, batch: Batch) -> Tensor:
    """Half the mean square of A x - b."""
    rows, right = batch
    return 0.5 * (model(rows).squeeze(-1) - right).square().mean()


def _logarithm(model: nn.Module, batch: Batch) -> Tensor:
    return torch.log10(half_squares(model, batch).clamp_min(FLOOR))


def hadamard(size: int) -> np.ndarray:
    """Sylvester's matrix of +1 and -1 with orthogonal columns; ``size`` is a power of two."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def make() -> Arrays:
    """A, int32 (128, 64), and b, int32 (128,), in units of 2^-20."""
    random = np.random.RandomState(0)
    spectrum = np.logspace(0, -np.log10(CONDITION), DIMENSION)
    left = hadamard(ROWS)[:, :DIMENSION]  # columns of norm sqrt(128), so that A^T A / 128 has the spectrum
    right = random.choice([-1.0, 1.0], (DIMENSION, 1)) * hadamard(DIMENSION) / DIMENSION**0.5
    matrix = (left * spectrum**0.5) @ right.T
    solution = right @ random.choice([-1.0, 1.0], DIMENSION)
    return np.round(SCALE * matrix).astype(np.int32), np.round(SCALE * (matrix @ solution)).astype(np.int32)


def split(matrix: np.ndarray, right: np.ndarray) -> tuple[Tensors, Tensors]:
    """Rows of A (128, 64) and b (128,), twice: for training and for the metric."""
    data = Tensors(torch.from_numpy(matrix / SCALE).float(), torch.from_numpy(right / SCALE).float())
    return data, data


EQUATIONS = Generated(
    key="quadratic",
    name="linear equations with a prescribed spectrum",
    origin="made by fallline.tasks.quadratic",
    size="128 + 128 (the same) equations in 64 unknowns",
    sha256="4b005d0bfbd91f3fd590254e5a329441a997181261b541ead2769e61bf27039a",
    make=make,
)

QUADRATIC = Entry(
    name="quadratic",
    summary="least squares with condition number 1e4, eigenvectors off the axes, no noise",
    corpus=EQUATIONS,
    split=split,
    model=linear,
    loss=half_squares,
    metric=Metric("log10 of the loss", _logarithm),
    # At the full budget, 5 % warm-up, cosine, torch 2.13, one thread, seed 1: Nesterov -3.91 at lr 1, -3.10 at 0.3; AdamW
    # -2.96 at 3, -3.44 at 1, -3.31 at 0.3, -2.92 at 0.1, -2.24 at 0.03; SGD -2.80 at 1.8, -2.50 at 1.
    # Each is `fallline run quadratic --method M --set lr=L --seed 1`.
    target=-3.7,
    target_note="tuned Nesterov reaches it; AdamW ends half a decade above, SGD more than one",
    batch_size=ROWS,
    steps=1000,
    spaces={"adamw": {"lr": log(1e-3, 10.0)}, "sgd": {"lr": log(1e-2, 10.0)}, "nesterov": {"lr": log(1e-2, 10.0)}},
)
