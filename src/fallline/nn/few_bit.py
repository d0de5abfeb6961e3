r"""Few-bit backward: an activation that keeps a code of a few bits of each input for the backward pass, not the input.

The derivative is replaced by the best piecewise constant function q of :math:`2^b` levels,
:math:`\min_q \int_{-A}^{A} (\phi'(x) - q(x))^2 dx`, found by dynamic programming (Novikov et al., arXiv:2202.00441). The forward pass
is exact. ReLU's derivative has two levels, so that one bit is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fallline.core.claims import claim
from fallline.nn.check import demand
from fallline.nn.quadrature import Activation, derivative

__all__ = ["Codebook", "FewBit", "codebook", "pack", "saved_bytes", "unpack"]

_CELLS = 2000


@dataclass(frozen=True)
class Codebook:
    """A piecewise constant function: ``levels[i]`` between ``bounds[i - 1]`` (excluded) and ``bounds[i]``; and its squared error."""

    bounds: tuple[float, ...]
    levels: tuple[float, ...]
    error: float


@lru_cache(maxsize=64)
def codebook(activation: Activation, bits: int, limit: float = 10.0) -> Codebook:
    r"""The piecewise constant function of :math:`2^b` levels nearest to the derivative on [-limit, limit], on a grid of 2,000 cells.

    Dynamic programming over the last bound: the error of k levels up to cell j is the least, over i, of that of k - 1 up to i
    plus the variance of the derivative over cells i to j. The outer levels hold beyond the limit, too.
    """
    demand(
        isinstance(bits, int) and not isinstance(bits, bool) and 1 <= bits <= 6,
        f"codebook() got bits={bits!r}",
        "Expected a whole number from 1 to 6",
        "Pass for example bits=3",
    )
    width = 2 * limit / _CELLS
    centres = -limit + width * (np.arange(_CELLS) + 0.5)
    d = derivative(activation, torch.from_numpy(centres)).numpy()
    first, second = np.concatenate([[0], d.cumsum()]), np.concatenate([[0], (d * d).cumsum()])
    i, j = np.arange(_CELLS + 1)[:, None], np.arange(_CELLS + 1)[None, :]
    size = np.maximum(j - i, 1)
    spread = np.where(j > i, (second[j] - second[i]) - (first[j] - first[i]) ** 2 / size, np.where(j == i, 0.0, np.inf))
    best, cuts = spread[0].copy(), []
    for _ in range(2**bits - 1):
        total = best[:, None] + spread
        cuts.append(total.argmin(0))
        best = total[cuts[-1], np.arange(_CELLS + 1)]
    ends = [_CELLS]
    for cut in reversed(cuts):
        ends.append(int(cut[ends[-1]]))
    edges = sorted({0, *ends})  # fewer levels where more do not help
    levels = tuple(float(d[a:b].mean()) for a, b in zip(edges, edges[1:], strict=False))
    bounds = tuple(float(-limit + width * e) for e in edges[1:-1])
    squares = sum(float(((d[a:b] - level) ** 2).sum()) for a, b, level in zip(edges, edges[1:], levels, strict=False))
    return Codebook(bounds, levels, width * squares)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes below 2^bits, any shape, as bytes: ``bits`` for every 8 codes, one for each binary digit."""
    flat = F.pad(codes.flatten(), (0, -codes.numel() % 8)).unflatten(0, (-1, 8))
    place = 2 ** torch.arange(8, device=codes.device)
    return torch.stack([(((flat >> b) & 1) * place).sum(1).to(torch.uint8) for b in range(bits)])


def unpack(packed: Tensor, count: int) -> Tensor:
    """The ``count`` codes that ``pack`` made bytes of."""
    place = torch.arange(8, device=packed.device)
    digits = (packed.long()[..., None] >> place) & 1  # (bits, bytes, 8)
    weights = 2 ** torch.arange(len(packed), device=packed.device)
    return (digits * weights[:, None, None]).sum(0).flatten()[:count]


class _FewBitFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: Activation, bits: int, bounds: Tensor, levels: Tensor) -> Tensor:
        ctx.save_for_backward(pack(torch.bucketize(x, bounds), bits), levels)
        return activation(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        packed, levels = ctx.saved_tensors
        (g,) = gradients
        return g * levels[unpack(packed, g.numel())].view_as(g), None, None, None, None


class FewBit(nn.Module):
    r"""An activation whose backward pass keeps ``bits`` bits of each element: 3 for GELU save 29 of 32.

    The gradient is that of ``codebook(activation, bits)``; what other layers keep, they keep. ``nn.GELU()`` becomes
    ``FewBit(torch.nn.functional.gelu, bits=3)``. Second derivatives are those of a step function: zero.
    """

    def __init__(self, activation: Activation, bits: int = 3) -> None:
        super().__init__()
        book = codebook(activation, bits)
        self.activation, self.bits = activation, bits
        self.bounds: Tensor
        self.levels: Tensor
        self.register_buffer("bounds", torch.tensor(book.bounds), persistent=False)
        self.register_buffer("levels", torch.tensor(book.levels), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return _FewBitFunction.apply(x, self.activation, self.bits, self.bounds.to(x.dtype), self.levels.to(x.dtype))

    def extra_repr(self) -> str:
        return f"{getattr(self.activation, '__name__', self.activation)}, bits={self.bits}"


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes of tensors that autograd keeps for the backward pass of ``model(x)``; each memory counts once, parameters do not."""
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Tensor] = {}

    def keep(t: Tensor) -> Tensor:
        kept.setdefault(t.untyped_storage().data_ptr(), t)  # holding t keeps its memory from being used again
        return t

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        out = model(x.detach().requires_grad_())
        del out
    return sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in own)


@claim("FewBit", "one bit is exact for ReLU, forward and backward", where="arXiv:2202.00441")
def relu_is_exact(lab):
    torch.manual_seed(0)
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    g, layer = torch.randn(5, 7, dtype=torch.float64), FewBit(torch.relu, bits=1).double()
    yield lab.equal(layer(x).detach(), x.detach().relu())
    yield lab.equal(torch.autograd.grad(layer(x), x, g)[0], torch.autograd.grad(torch.relu(x), x, g)[0])


@claim("FewBit", "b bits of 32 are kept of each element", where="arXiv:2202.00441")
def bytes_are_counted(lab):
    x = torch.randn(64, 128)
    yield lab.equal(float(saved_bytes(nn.GELU(), x)), 4.0 * 64 * 128)
    for bits in (1, 2, 3, 4):
        yield lab.equal(
            float(saved_bytes(FewBit(F.gelu, bits), x)), bits / 8 * 64 * 128
        )  # the table of levels is a buffer


@claim(
    "codebook",
    "the error of the derivative falls with every bit, and no other bounds do better",
    where="arXiv:2202.00441",
)
def errors_fall(lab):
    errors = [codebook(F.gelu, bits).error for bits in (1, 2, 3, 4)]
    for coarse, fine in zip(errors, errors[1:], strict=False):
        yield lab.less(fine, coarse / 2)
    even = torch.linspace(-10, 10, 2001, dtype=torch.float64)
    d = derivative(F.gelu, (even[1:] + even[:-1]) / 2).view(8, 250)  # eight equal intervals
    yield lab.less(errors[2], float((d - d.mean(1, keepdim=True)).square().sum()) * 0.01)
