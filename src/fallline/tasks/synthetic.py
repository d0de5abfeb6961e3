"""Stand-ins for data that cannot be found: the same shapes and types, learnable, and worth nothing as a benchmark.

They use numpy's RandomState, whose streams are frozen, so that they are the same everywhere.
"""

from __future__ import annotations

import numpy as np

__all__ = ["flights", "images", "table", "text"]


def images(count: int, size: int, top: int = 255, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ten smooth patterns with noise: uint8 images (count, size, size) from 0 to ``top``, and their labels (count,)."""
    patterns = np.random.RandomState(0).rand(10, 4, 4).repeat(-(-size // 4), 1).repeat(-(-size // 4), 2)
    random = np.random.RandomState(seed + 1)
    labels = random.randint(0, 10, count).astype(np.uint8)
    noisy = patterns[labels, :size, :size] + 0.3 * random.randn(count, size, size)
    return (noisy.clip(0, 1) * top).astype(np.uint8), labels


def table(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Two Gaussian classes; the scales of the features run from 1e-3 to 1e3: float64 (rows, columns), labels (rows,)."""
    random = np.random.RandomState(0)
    labels = random.randint(0, 2, rows).astype(np.uint8)
    features = 3 + random.randn(rows, columns) + 0.5 * labels[:, None]
    return features * np.logspace(-3, 3, columns), labels


def text(length: int) -> tuple[np.ndarray]:
    """Words of a made-up language with Zipf's frequencies: ASCII codes, uint8 (length,)."""
    random = np.random.RandomState(0)
    lexicon = ["".join(random.choice(list("aeioulnrst"), random.randint(1, 9))) for _ in range(500)]
    frequency = 1 / np.arange(1, 501)
    chosen = random.choice(500, length // 2 + 1, p=frequency / frequency.sum())
    line = " ".join(lexicon[i] for i in chosen)
    return (np.frombuffer(line[:length].encode(), np.uint8).copy(),)


def flights(count: int) -> tuple[np.ndarray]:
    """Delays with a heavy tail that depend on destination and hour: uint8 (9, count), columns as in tools/vendor_data.py."""
    random = np.random.RandomState(0)
    carrier, origin, dest, month, day, hour, minute = (
        random.randint(0, n, count) for n in (16, 3, 104, 12, 28, 19, 60)
    )
    late = -40 * np.log(random.uniform(size=count)) * (random.uniform(size=count) < 0.3)
    delay = 113 + dest // 10 + hour + random.randint(-10, 11, count) + late.astype(int)
    columns = [delay % 256, delay // 256, carrier, origin, dest, month + 1, day + 1, hour + 5, minute]
    return (np.stack(columns).astype(np.uint8),)
