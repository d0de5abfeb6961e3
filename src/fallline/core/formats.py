r"""State formats: what the slots of an optimizer are stored as between steps; the maths is in compute precision.

``float32`` as computed, ``bfloat16`` half of that, ``8bit`` blockwise dynamic quantisation (Dettmers et al. 2022,
arXiv:2110.02861, sections 2 and 3): Adam's state takes 8, 4 or 2.03 bytes per parameter.

A warning about nearest rounding and slow averages. A running mean with b2 = 0.999 changes by at most 0.1 % a step when it
falls, and half the spacing of bfloat16 is 0.2 to 0.4 %: rounded to nearest, v never falls again; in 8 bits it falls only
with its whole block. Given ``noise``, both formats round stochastically and the mean is right on average.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from fallline.core.rounding import stochastic

__all__ = ["FORMATS", "Blockwise", "Format", "Plain"]

Stored = tuple[Tensor, ...]


class Format(ABC):
    """How one slot is stored. Pure; a slot that the format does not apply to is stored as it is computed."""

    name: str

    @abstractmethod
    def parts(self, slot: str) -> tuple[str, ...]:
        """Names of the stored tensors: ``("adam.v",)`` or ``("adam.v", "adam.v.scale")``."""

    @abstractmethod
    def applies(self, x: Tensor) -> bool:
        """Whether a slot with this initial value, in compute precision, is stored in this format."""

    @abstractmethod
    def encode(self, x: Tensor, signed: bool = True, noise: Tensor | None = None) -> Stored:
        """Compute precision -> stored tensors, to nearest or, given ``random_bits`` shaped like x, stochastically.

        ``signed`` is False for slots that their transform declares ``nonnegative``.
        """

    @abstractmethod
    def decode(self, stored: Stored, signed: bool = True, dtype: torch.dtype = torch.float32) -> Tensor:
        """Stored tensors -> compute precision, in the shape that was encoded."""


@dataclass(frozen=True)
class Plain(Format):
    """One tensor of a floating dtype. Float64 slots and numbers (0-d) are left alone."""

    name: str
    dtype: torch.dtype

    def parts(self, slot: str) -> tuple[str, ...]:
        return (slot,)

    def applies(self, x: Tensor) -> bool:
        return x.dtype == torch.float32 and x.dim() > 0

    def encode(self, x: Tensor, signed: bool = True, noise: Tensor | None = None) -> Stored:
        if noise is None or self.dtype == torch.float32:
            return (x.to(self.dtype),)
        return (stochastic(x, self.dtype, noise),)

    def decode(self, stored: Stored, signed: bool = True, dtype: torch.dtype = torch.float32) -> Tensor:
        return stored[0].to(dtype)


@dataclass(frozen=True)
class Blockwise(Format):
    r"""One byte per element, a position on a fixed map of 256 numbers, and one float32 scale per block of the flat tensor.

    .. math:: s = x_j,\ j = \arg\max_i |x_i|, \qquad q_i = \arg\min_k |\mathrm{map}_k - x_i / s|, \qquad
        \hat x_i = s\, \mathrm{map}_{q_i}

    The map has seven decades; decade e of 10^-6 ... 10^0 holds 2^e (signed, either side) or 2^(e+1) (unsigned) numbers,
    the midpoints of equal cells of [0.1, 1] 10^e; then 0 and 1. Its ends: 5.5e-7 and 3.25e-7. The error is at most half the
    wider gap of x / s: 0.7 % of s signed, 0.35 % unsigned.

    Three choices that the paper leaves open:

    - The scale has the sign of the largest element, for the map has 1 but not -1: the largest element is exact on either
      side, and coding again what was decoded changes nothing. Ties count as positive.
    - Unsigned, what is greater than zero never becomes zero: it is rounded up to the smallest number of the map, as Adam
      would divide by eps where v vanished. So sqrt(v) is at least 5.7e-4 of the block's largest, and steps there are
      smaller than float32's, not larger. (The promise needs s > 4e-39; smaller, float32 ends.) Negative input becomes 0.
    - Infinities become plus or minus s; NaN becomes 0 signed and s unsigned, the value that makes the smaller step. The
      scale is of the finite elements, 0 if there are none, so that one bad element does not spoil its block. A code has no
      room to say so: the executor must guard before.

    Positions are computed, not looked up: position against value is piecewise linear and concave, hence the minimum of
    its 13 or 14 lines, which compilers vectorise. Laid out with a last dimension that is a known multiple of the block, the
    compiled code needs no padding and is several times faster; blocks are those of the flat tensor either way.
    """

    name: str = "8bit"
    block_size: int = 256
    min_size: int = 4096  # as in the paper's code: small tensors are not worth it

    def parts(self, slot: str) -> tuple[str, ...]:
        return (slot, f"{slot}.scale")

    def applies(self, x: Tensor) -> bool:
        return x.dtype == torch.float32 and x.numel() >= self.min_size

    def encode(self, x: Tensor, signed: bool = True, noise: Tensor | None = None) -> Stored:
        scale = self._scale(x, signed)
        rows, spread = self._rows(x, torch.where(scale == 0, 1.0, scale))
        r = (rows / spread).view(x.shape)
        r = torch.where(r.isnan(), 0.0 if signed else 1.0, r)
        n = torch.floor(_position(r.abs(), signed) + (0.5 if noise is None else noise * 2.0**-16))
        if signed:
            code = torch.where(r < 0, 127 - n, 127 + n)
        else:
            code = torch.where(r > 0, n.clamp(min=1), 0.0)
        return code.clamp(0, 255).to(torch.uint8), scale

    def decode(self, stored: Stored, signed: bool = True, dtype: torch.dtype = torch.float32) -> Tensor:
        code, scale = stored
        n = code.to(torch.float32)
        value = (n - 127).sign() * _value((n - 127).abs(), signed) if signed else _value(n, signed)
        rows, spread = self._rows(value, scale)
        return (rows * spread).view(code.shape).to(dtype)

    def _scale(self, x: Tensor, signed: bool) -> Tensor:
        """The element of largest size of every block, among the finite."""
        x = torch.where(x.isfinite(), x, 0.0)
        if not self._aligned(x):
            # always by the same amount, then cut: a pad that depends on the length would be a guard on it
            num_blocks = -(-x.numel() // self.block_size)
            x = pad(x.reshape(-1), (0, self.block_size - 1))[: num_blocks * self.block_size]
        x = x.reshape(-1, self.block_size)
        high = x.amax(1)
        low = x.amin(1)
        return torch.where(high >= -low, high, low) if signed else high.clamp(min=0)

    def _rows(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """x and the scale in shapes that broadcast: by blocks, or element by element where the last block is cut."""
        if self._aligned(x):
            return x.reshape(-1, self.block_size), scale[:, None]
        return x.reshape(-1), scale[:, None].expand(-1, self.block_size).reshape(-1)[: x.numel()]

    def _aligned(self, x: Tensor) -> bool:
        """Whether every row is whole blocks; only a known length counts, a symbolic one must not be guarded on."""
        row = x.shape[-1]
        return isinstance(row, int) and row % self.block_size == 0


FORMATS: dict[str, Format] = {
    f.name: f for f in (Plain("float32", torch.float32), Plain("bfloat16", torch.bfloat16), Blockwise())
}
"""Name -> format."""


def _lines(signed: bool) -> tuple[list[tuple[int, float, float]], int, float]:
    """Corners of value against position, as (position, value, rise per position), and the last number before 1.

    Computed where it is used: Dynamo makes inputs of the floats of a module-level table, and they no longer fold.
    """
    lines: list[tuple[int, float, float]] = []
    n, x = 0, 0.0
    for e in range(7):
        num = 2**e if signed else 2 ** (e + 1)
        first, gap = 10.0 ** (e - 6) * (0.1 + 0.45 / num), 10.0 ** (e - 6) * 0.9 / num
        lines.append((n, x, first - x))  # from the decade below, or from zero
        if num > 1:
            lines.append((n + 1, first, gap))
        n, x = n + num, first + (num - 1) * gap
    return lines, n, x


def _position(r: Tensor, signed: bool) -> Tensor:
    """Where r in [0, 1] lies on the map, counted from zero; fractional between two numbers of it."""
    lines, top, last = _lines(signed)
    n, *others = ((r - x) * (1 / rise) + k for k, x, rise in lines)
    for line in others:
        n = torch.minimum(n, line)
    return n.clamp(max=top) + ((r - last) * (1 / (1 - last))).clamp(min=0)


def _value(n: Tensor, signed: bool) -> Tensor:
    """The number at position n; the inverse of _position."""
    x, *others = ((n - k) * rise + x for k, x, rise in _lines(signed)[0])
    for line in others:
        x = torch.maximum(x, line)
    return x.clamp(max=1.0)
