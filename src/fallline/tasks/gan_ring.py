"""A game of two networks instead of a minimum: a generator learns eight clusters on a ring, and momentum hurts.

Real points are eight Gaussians of deviation 0.02 on a ring of radius 1 (after Metz et al., arXiv:1611.02163); the generator, 8-64-64-2, makes points from
noise, the discriminator, 2-64-64-1, tells them apart. Both step at the same time, with the same method and rate. One loss does it:
the discriminator's cross-entropy on points that give no gradient to the generator, plus the generator's (the non-saturating
one) on a discriminator whose weights give none. Its value is no measure of progress; it is near 2 ln 2 at the start and in balance.

The metric is 100 times the energy distance (Székely and Rizzo, doi:10.1016/j.jspi.2013.03.018) between the points of a chunk
and as many made ones, without the pairs of a point with itself. A real sample against another has about 0.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from fallline.core.space import log
from fallline.tasks.data import Arrays
from fallline.tasks.datasets import Batch, Tensors
from fallline.tasks.entry import Entry
from fallline.tasks.generated import Generated
from fallline.tasks.task import Metric

__all__ = ["GAN_RING"]

NUM_TRAIN, NUM_VALID, LATENT = 8_192, 1_024, 8
DIGITS = 10_000  # stored in ten-thousandths


class Game(nn.Module):
    """Noise (batch, 8) to points (batch, 2), with a discriminator of points to logits (batch, 1) beside."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.generator, self.discriminator = (
            nn.Sequential(nn.Linear(m, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, n))
            for m, n in ((LATENT, 2), (2, 1))
        )

    def forward(self, noise: Tensor) -> Tensor:
        points: Tensor = self.generator(noise)
        return points


def game(model: nn.Module, batch: Batch) -> Tensor:
    """Both players' losses added; each player's gradient comes from its own alone."""
    real, noise = batch
    made, judge = model(noise), model.discriminator
    fixed = {name: p.detach() for name, p in judge.named_parameters()}
    told = F.softplus(-judge(real)).mean() + F.softplus(judge(made.detach())).mean()
    fooled = F.softplus(-functional_call(judge, fixed, (made,))).mean()
    total: Tensor = told + fooled
    return total


def energy_distance(model: nn.Module, batch: Batch) -> Tensor:
    """100 (2 E|x - y| - E|x - x'| - E|y - y'|) of real points x and made points y."""
    real, noise = batch
    made, n = model(noise), len(real)
    within = sum(torch.cdist(z, z).sum() / (n * (n - 1)) for z in (real, made))
    distance: Tensor = 100 * (2 * torch.cdist(real, made).mean() - within)
    return distance


def make() -> Arrays:
    """Points, int16 (examples, 2), and noise, int32 (examples, 8), in ten-thousandths."""
    random = np.random.RandomState(0)
    count = NUM_TRAIN + NUM_VALID
    angle = np.pi / 4 * random.randint(0, 8, count)
    points = np.stack([np.cos(angle), np.sin(angle)], 1) + 0.02 * random.randn(count, 2)
    noise = random.randn(count, LATENT)
    return np.round(DIGITS * points).astype(np.int16), np.round(DIGITS * noise).astype(np.int32)


def split(points: np.ndarray, noise: np.ndarray) -> tuple[Tensors, Tensors]:
    """Points (examples, 2) and noise (examples, 8), joined at random; the last 1,024 are for validation."""
    real, latent = torch.from_numpy(points).float() / DIGITS, torch.from_numpy(noise).float() / DIGITS
    return Tensors(real[:NUM_TRAIN], latent[:NUM_TRAIN]), Tensors(real[NUM_TRAIN:], latent[NUM_TRAIN:])


RING = Generated(
    key="ring",
    name="eight Gaussians on a ring",
    origin="made by fallline.tasks.gan_ring",
    size="8,192 + 1,024 points with noise",
    sha256="180eb711270ff446039f7f86046eb1b8f2daeb5bbf8ce2497d1a139b4e86a236",
    make=make,
)

GAN_RING = Entry(
    name="gan-ring",
    summary="a generator against a discriminator on eight clusters; a game, in which momentum hurts",
    corpus=RING,
    split=split,
    model=Game,
    loss=game,
    metric=Metric("100 x energy distance", energy_distance),
    target=5.0,
    target_note="-",
    batch_size=256,
    steps=1000,
    spaces={"sgd": {"lr": log(1e-2, 3.0)}, "nesterov": {"lr": log(1e-4, 1.0)}},
)
