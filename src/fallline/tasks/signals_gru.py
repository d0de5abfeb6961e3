"""A recurrent network on short signals with noise: a plateau that plain SGD leaves late.

Ten random patterns of 12 numbers, each stretched, scaled, moved to a random place of a signal of 40, and covered with
correlated noise and a random slope; the network must say which pattern it was. The data follow the idea of MNIST-1D
(Greydanus, arXiv:2011.14439) but are **not** MNIST-1D: patterns and generator are our own, so numbers do not compare with
published ones. The network reads one number at a time: a GRU of 32 units, then a linear layer on its last state.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fallline.tasks.data import Arrays
from fallline.tasks.datasets import Tensors
from fallline.tasks.entry import Entry
from fallline.tasks.generated import Generated
from fallline.tasks.objectives import ERROR, cross_entropy

__all__ = ["SIGNALS_GRU"]

NUM_TRAIN, NUM_VALID, LENGTH, UNITS = 4_000, 1_000, 40, 32
DIGITS = 1_000  # stored in thousandths


class Recurrent(nn.Module):
    """Signals (batch, 40) to logits (batch, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.out = nn.GRU(1, UNITS, batch_first=True), nn.Linear(UNITS, 10)

    def forward(self, signals: Tensor) -> Tensor:
        states, _ = self.gru(signals[..., None])
        logits: Tensor = self.out(states[:, -1])
        return logits


def make() -> Arrays:
    """Signals in thousandths, int16 (examples, 40), and labels, uint8 (examples,)."""
    random = np.random.RandomState(0)
    patterns = np.cumsum(random.randn(10, 12), axis=1)
    patterns = (patterns - patterns.mean(1, keepdims=True)) / patterns.std(1, keepdims=True)
    count = NUM_TRAIN + NUM_VALID
    labels = random.randint(0, 10, count)
    return np.stack([_signal(patterns[k], random) for k in labels]), labels.astype(np.uint8)


def _signal(pattern: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    width = random.randint(14, 25)
    shape = np.interp(np.linspace(0, 11, width), np.arange(12), pattern) * random.uniform(0.8, 1.2)
    kernel = np.exp(-0.5 * (np.arange(-4, 5) / 1.5) ** 2)
    signal = 0.25 * np.convolve(random.randn(LENGTH + 8), kernel / np.linalg.norm(kernel), "valid")
    start = random.randint(0, LENGTH - width + 1)
    signal[start : start + width] = shape + 0.1 * random.randn(width)
    slope = random.uniform(-0.4, 0.4) * np.linspace(-1, 1, LENGTH)
    rounded: np.ndarray = np.round(DIGITS * (signal + slope)).astype(np.int16)
    return rounded


def split(signals: np.ndarray, labels: np.ndarray) -> tuple[Tensors, Tensors]:
    """Signals (examples, 40) and labels (examples,); the last 1,000 are for validation."""
    inputs, targets = torch.from_numpy(signals).float() / DIGITS, torch.from_numpy(labels).long()
    return Tensors(inputs[:NUM_TRAIN], targets[:NUM_TRAIN]), Tensors(inputs[NUM_TRAIN:], targets[NUM_TRAIN:])


SIGNALS = Generated(
    key="signals",
    name="patterns in noise",
    origin="made by fallline.tasks.signals_gru, after the idea of MNIST-1D (arXiv:2011.14439); not MNIST-1D",
    size="4,000 + 1,000 signals of 40 numbers",
    sha256="aea78994a19b6739e589306d101474ee852d960a5c3269ddc63061aac20b7271",
    make=make,
)

SIGNALS_GRU = Entry(
    name="signals-gru",
    summary="find patterns in short noisy signals with a recurrent network; SGD leaves the plateau late",
    corpus=SIGNALS,
    split=split,
    model=Recurrent,
    loss=cross_entropy,
    metric=ERROR,
    # At the full budget, 5 % warm-up, cosine, torch 2.13, one thread, seed 1: AdamW 17.2 at lr 1e-2; SGD 48.2 at 1;
    # Nesterov 63.9 at 0.1, and 46.8 at 0.3 with 500 steps. Each is `fallline run signals-gru --method M --set lr=L --seed
    # 1`.
    target=20.0,
    target_note="AdamW reaches it; SGD and Nesterov leave the plateau late and end near 50",
    batch_size=100,
    steps=400,
)
