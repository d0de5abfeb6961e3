"""Two factors of a matrix from some of its entries: a saddle at zero, and singular values that are learned one by one.

A 200 x 100 matrix of rank 5 with singular values 1, 1/2, 1/4, 1/8, 1/16 times 120; 6,000 of its 20,000 entries are for
training and 1,000 others for validation. The model is U V^T with five columns each, entries normal with deviation 0.1, so
that U V^T starts near 0, a saddle. The metric is the mean square error in per cent of the entries' mean square.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fallline.core.space import log
from fallline.tasks.data import Arrays
from fallline.tasks.datasets import Batch, Tensors
from fallline.tasks.entry import Entry
from fallline.tasks.generated import Generated
from fallline.tasks.task import Metric

__all__ = ["MATRIX_FACTORISATION"]

ROWS, COLUMNS, RANK, NUM_TRAIN, NUM_VALID = 200, 100, 5, 6_000, 1_000
DIGITS, SCALE = 10_000, 120.0  # stored in ten-thousandths; the entries have deviation of about 1


class Factors(nn.Module):
    """Pairs (row, column), (batch, 2), to the entries of U V^T, (batch,)."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.columns = (nn.Parameter(0.1 * torch.randn(n, RANK)) for n in (ROWS, COLUMNS))

    def forward(self, places: Tensor) -> Tensor:
        return (self.rows[places[:, 0]] * self.columns[places[:, 1]]).sum(-1)


def squares(model: nn.Module, batch: Batch) -> Tensor:
    """Mean squared error of the entries."""
    places, values = batch
    return F.mse_loss(model(places), values)


def _percent(model: nn.Module, batch: Batch) -> Tensor:
    return 100 * squares(model, batch) / MEAN_SQUARE


MEAN_SQUARE = SCALE**2 * sum(4.0**-i for i in range(RANK)) / (ROWS * COLUMNS)


def make() -> Arrays:
    """Places, int16 (entries, 2), and values in ten-thousandths, int32 (entries,)."""
    random = np.random.RandomState(0)
    left, right = (_orthonormal(random.randn(n, RANK)) for n in (ROWS, COLUMNS))
    matrix = SCALE * (left * 0.5 ** np.arange(RANK)) @ right.T
    chosen = random.permutation(ROWS * COLUMNS)[: NUM_TRAIN + NUM_VALID]
    places = np.stack([chosen // COLUMNS, chosen % COLUMNS], 1)
    return places.astype(np.int16), np.round(DIGITS * matrix.flat[chosen]).astype(np.int32)


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    basis = np.linalg.qr(columns)[0]
    fixed: np.ndarray = basis * np.sign(basis[0])  # LAPACKs differ in the signs
    return fixed


def split(places: np.ndarray, values: np.ndarray) -> tuple[Tensors, Tensors]:
    """Places (entries, 2) and values (entries,); the last 1,000 are for validation."""
    where, what = torch.from_numpy(places).long(), torch.from_numpy(values).float() / DIGITS
    return Tensors(where[:NUM_TRAIN], what[:NUM_TRAIN]), Tensors(where[NUM_TRAIN:], what[NUM_TRAIN:])


ENTRIES = Generated(
    key="low-rank",
    name="entries of a matrix of rank 5",
    origin="made by fallline.tasks.matrix_factorisation",
    size="6,000 + 1,000 entries of 200 x 100",
    sha256="807275bde967703765d23e3242c1baa5c8578f3e77a5b08286fa077fd3bffd43",
    make=make,
)

MATRIX_FACTORISATION = Entry(
    name="matrix-factorisation",
    summary="complete a matrix of rank 5 by two factors; a saddle at the start, small singular values last",
    corpus=ENTRIES,
    split=split,
    model=Factors,
    loss=squares,
    metric=Metric("squared error", _percent, unit="%"),
    # At the full budget, 5 % warm-up, cosine, torch 2.13, one thread, seed 1: AdamW 0.017 at lr 0.3, 0.035 at 0.1, 0.091
    # at 0.03; Nesterov 0.055 at 3, 0.56 at 1; SGD 0.54 at 10, 3.7 at 3; SGD at 30, Nesterov at 10 and
    # AdamW at 1 diverge. Each is `fallline run matrix-factorisation --method M --set lr=L --seed 1`.
    target=0.1,
    target_note="tuned AdamW and Nesterov reach it; SGD ends at 0.5",
    batch_size=200,
    steps=1000,
    spaces={"adamw": {"lr": log(1e-3, 3.0)}, "sgd": {"lr": log(1e-2, 100.0)}, "nesterov": {"lr": log(1e-2, 30.0)}},
)
