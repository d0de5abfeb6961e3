r"""Rounding: how a float32 result is written into a bfloat16 or float16 parameter without losing small updates.

Rounded to nearest, an update below half the spacing of the parameter (2^-9 of its size in bfloat16) changes nothing, step
after step. Two remedies: ``kahan`` keeps what was rounded off in a second tensor, ``stochastic`` is right on average.

Everything is pure and works on bits in float32 or int32. That is a need, not a taste: Inductor removes a cast down that is
followed by a cast up (``joint_graph.pointless_convert``), so the residual ``x - x.to(bfloat16).float()`` compiles to zero.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from fallline.core.errors import InvalidTypeError

__all__ = ["ROUNDED", "kahan", "random_bits", "stochastic", "stream_key"]

ROUNDED: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float16)
"""The dtypes that can be rounded to."""

EXPONENT = 0x7F800000  # the exponent field of a float32
LOW = 0xFFFFFFFF
GOLDEN = 0x9E3779B9  # 2^32 over the golden ratio; any odd constant would do


def kahan(p: Tensor, c: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    r"""Compensated subtraction: ``p <- p - u`` where the parameter is the unevaluated sum ``p + c``.

    .. math:: p' = \mathrm{round}(p + (c - u)), \qquad c' = \mathrm{round}((p - p') + (c - u))

    Invariant: ``p' + c' = p + c - u`` up to the rounding of c' and of float32, and ``|c'|`` is at most half the spacing of
    p'. The pair thus has the precision of its two significands, 2^-17 of p in bfloat16 and 2^-22 in float16 (there not
    finer than 2^-24 in absolute size, where float16 ends): smaller updates are lost again. p and c share a dtype, u is
    float32; c starts at zero. Where p' is not finite, c' is zero (Kahan 1965; Zamirai et al. 2020, arXiv:2010.06192,
    algorithm 1).
    """
    _check("kahan", p.dtype)
    wide = p.to(torch.float32)
    y = c.to(torch.float32) - u
    x = wide + y
    near = _to_grid(x, p.dtype, None)
    # p - p' first (fast two-sum): exact unless y is 2^16 times larger than p or more, and then p is float32's rounding.
    left = torch.where(near.abs() <= torch.finfo(p.dtype).max, (wide - near) + y, 0.0)
    return near.to(p.dtype), _to_grid(left, p.dtype, None).to(p.dtype)


def stochastic(x: Tensor, dtype: torch.dtype, noise: Tensor) -> Tensor:
    r"""Round float32 to one of the two neighbours in ``dtype``, up with probability the distance from the lower one.

    .. math:: E[\mathrm{round}(x)] = x

    ``noise`` is int32, uniform in [0, 2^16), one number per element (``random_bits``). The mean over all 2^16 values is x
    exactly in bfloat16 and for normal numbers of float16; below those it is x to 2^-40. What ``dtype`` can represent stays
    as it is, as do zeros with their sign, infinities and NaN; only numbers beyond the largest finite one can become
    infinite.
    """
    _check("stochastic", dtype)
    return _to_grid(x, dtype, noise).to(dtype)


def stream_key(seed: int, name: str) -> int:
    """63 bits that stand for a seed and a parameter's name: the same on every machine, unlike ``hash``."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def random_bits(key: int | Tensor, t: int | Tensor, index: Tensor) -> Tensor:
    """16 random bits as int32 for every element: a pure function of the stream's key, the step and the element's index.

    No generator is read or advanced, so that resuming, the order of parameters and the layout do not matter: element i of
    a parameter draws the same bits alone, in a slice, or in an arena. ``key`` (of ``stream_key``) and ``t`` may be tensors
    that broadcast with ``index``, as an arena of several parameters needs. Two rounds of the 32-bit mixer lowbias32
    (Wellons 2018), each with its own half of a key that depends on (key, t).
    """
    i = index.to(torch.int64)
    step = t.to(device=i.device, dtype=torch.int64) if isinstance(t, Tensor) else torch.full((), t, device=i.device)
    word = key.to(torch.int64) if isinstance(key, Tensor) else torch.full((), key, device=i.device)
    first = _mix((word & LOW) ^ _mix(step & LOW))
    second = _mix(
        (word >> 32) ^ _mix((step + GOLDEN) & LOW)
    )  # not from first: mix(i ^ first) would meet it at i = key >> 32
    bits = _mix(_mix((i & LOW) ^ first) ^ second ^ (i >> 32))
    return (bits >> 16).to(torch.int32)


def _mix(x: Tensor) -> Tensor:
    """lowbias32 on int64 in [0, 2^32): a bijection in which every input bit flips every output bit about half the time."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & LOW
    x = x ^ (x >> 15)
    x = (x * (0x846CA68B - 2**32)) & LOW  # the same modulo 2^32; factors below 2^31 keep the product within int64
    return x ^ (x >> 16)


def _to_grid(x: Tensor, dtype: torch.dtype, noise: Tensor | None) -> Tensor:
    """Float32 in, float32 out: the neighbour in ``dtype``, to nearest even or as the noise says."""
    near = _bfloat16_grid(x, noise) if dtype == torch.bfloat16 else _float16_grid(x, noise)
    return torch.where(x.isfinite(), near, x)


def _bfloat16_grid(x: Tensor, noise: Tensor | None) -> Tensor:
    bits = x.view(torch.int32)  # bfloat16 is the upper half; a carry runs into the exponent as it should
    up = 0x7FFF + ((bits >> 16) & 1) if noise is None else noise
    return ((bits + up) & -0x10000).view(torch.float32)


def _float16_grid(x: Tensor, noise: Tensor | None) -> Tensor:
    power = (x.view(torch.int32) & EXPONENT).clamp((127 - 14) << 23, (127 + 16) << 23)  # of normal float16, as bits
    spacing = power - (10 << 23)
    n = x.abs() * ((254 << 23) - spacing).view(torch.float32)  # exact: the inverse of a power of two
    low = n.floor()
    n = n.round() if noise is None else low + ((n - low) * 2**16 > noise)
    return (n * spacing.view(torch.float32)).copysign(x)


def _check(what: str, dtype: torch.dtype) -> None:
    if dtype not in ROUNDED:
        raise InvalidTypeError(
            f"{what}() got {dtype}. It rounds float32 to bfloat16 or float16. Write p - u into wider parameters directly."
        )
