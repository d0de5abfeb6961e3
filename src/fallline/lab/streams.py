"""Four independent random streams: initialisation, data order, noise, dropout. Counter-based, so any run can start anywhere.

Every number is a pure function of (seed, stream, counter): nothing is drawn in sequence, so resuming, reordering or
parallel workers cannot change a run, and two methods with one seed see the same initial weights and the same batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Stream", "batch_indices", "generator", "seed_of", "seeded"]

Stream = Literal["init", "order", "noise", "dropout"]


def seed_of(seed: int, stream: Stream, counter: int = 0) -> int:
    """A 63-bit seed from (seed, stream, counter), the same on every platform and version (BLAKE2b)."""
    digest = hashlib.blake2b(f"fallline/{seed}/{stream}/{counter}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, stream: Stream, counter: int = 0) -> torch.Generator:
    """A fresh generator at that point of the stream."""
    return torch.Generator().manual_seed(seed_of(seed, stream, counter))


@contextmanager
def seeded(seed: int, stream: Stream, counter: int = 0) -> Iterator[None]:
    """Seed torch's global generator inside the block (initialisers and dropout draw from it); restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(seed, stream, counter))
        yield


@lru_cache(maxsize=64)  # a population asks for those of many seeds in turn
def _order(seed: int, epoch: int, num_examples: int) -> Tensor:
    return torch.randperm(num_examples, generator=generator(seed, "order", epoch))


def batch_indices(seed: int, t: int, batch_size: int, num_examples: int) -> Tensor:
    """The examples of step ``t`` (from 1): consecutive slices of one permutation per epoch; a short tail is dropped."""
    per_epoch = num_examples // batch_size
    epoch, k = divmod(t - 1, per_epoch)
    return _order(seed, epoch, num_examples)[k * batch_size : (k + 1) * batch_size]
