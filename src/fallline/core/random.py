"""Random numbers for steps: a function of the seed, the parameter's name, the step count and the element's place.

Nothing is read or advanced, so that resuming, the order of parameters, the layout and the number of ranks do not matter.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fallline.core.rounding import random_bits, stream_key
from fallline.core.transform import FromSite

__all__ = ["normal_like", "permutation", "signs_like", "stream"]

_HIGH, _LOW, _ANGLE = (stream_key(0, what) for what in ("high", "low", "angle"))

stream = FromSite(
    lambda step, p, site: torch.tensor(stream_key(site.seed, f"{site.name}:{site.slot}"), device=p.device)
)
"""A slot that holds the key of a stream: ``slots = {"stream": stream}``; ``update`` hands it to ``normal_like``."""


def normal_like(x: Tensor, key: Tensor, t: int | Tensor) -> Tensor:
    """Standard normal numbers shaped like x, by the elements' places in reading order: for steps of reach MATRIX.

    Box and Muller's transform of 32 and 16 random bits; none is larger than 6.8 in size.
    """
    places = torch.arange(x.numel(), device=x.device).view(x.shape)
    high, low, angle = (random_bits(key ^ salt, t, places).to(x.dtype) for salt in (_HIGH, _LOW, _ANGLE))
    radius = (-2 * ((high * 2.0**-16 + low * 2.0**-32) + 2.0**-33).log()).sqrt()
    return radius * (angle * (2 * math.pi * 2.0**-16)).cos()


def signs_like(x: Tensor, key: int | Tensor, t: int | Tensor) -> Tensor:
    """One or minus one, each as likely, shaped like x, by the elements' places in reading order."""
    places = torch.arange(x.numel(), device=x.device).view(x.shape)
    return (1 - 2 * (random_bits(key, t, places) & 1)).to(x.dtype)


def permutation(n: int, key: Tensor, t: int | Tensor) -> Tensor:
    """The numbers 0 to n - 1 in an order that is drawn."""
    places = torch.arange(n, device=key.device)
    high, low = (random_bits(key ^ salt, t, places).to(torch.int64) for salt in (_HIGH, _LOW))
    return ((high << 16) + low).argsort()
