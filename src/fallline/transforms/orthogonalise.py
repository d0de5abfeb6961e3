"""Orthogonalise: replace a matrix by its nearest (semi-)orthogonal one, its polar factor, by Newton-Schulz iterations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from fallline.core.errors import InvalidValueError
from fallline.core.transform import Transform, transform
from fallline.core.types import At, Reach, State
from fallline.transforms.average import whole

__all__ = ["COEFFICIENTS", "SCALES", "Orthogonalise", "explain_sizes", "orthogonalise", "polar", "size_of_step"]

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic a x + b x^3 + c x^5: steepest at 0 among those that stay near 1 (Jordan et al. 2024, the Muon post)."""

Scale = Literal["moonlight", "keller_jordan", "none"]
SCALES = ("moonlight", "keller_jordan", "none")

Precision = Literal["float32", "bfloat16"]


CACHED = 2**17
"""Elements of a stack that are iterated together on a CPU: of 64 x 64 matrices twice as fast as a stack of 2**19 at a time."""


class _Quintic(torch.autograd.Function):
    """x <- a x + (b A + c A^2) x with A = x x^T, some times; a class, because vmap takes apart what fuses the additions."""

    @staticmethod
    def forward(x: Tensor, num_iterations: int) -> Tensor:
        a, b, c = COEFFICIENTS
        done = []
        for part in _parts(x.reshape(-1, *x.shape[-2:])):
            for _ in range(num_iterations):
                gram = torch.bmm(part, part.mT)
                part = torch.baddbmm(part, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), part, beta=a)
            done.append(part)
        return (torch.cat(done) if len(done) > 1 else done[0]).reshape(x.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, num_iterations: int) -> tuple[Tensor, int]:
        return _Quintic.apply(x.movedim(in_dims[0], 0), num_iterations), 0


def _parts(stack: Tensor) -> Sequence[Tensor]:
    """The stack in pieces of as many matrices as stay in a processor's cache through all iterations; whole on a device."""
    if stack.device.type != "cpu":
        return [stack]
    return stack.split(max(1, CACHED // max(1, stack[:1].numel())))


def polar(x: Tensor, num_iterations: int = 5, precision: Precision = "float32") -> Tensor:
    r"""About :math:`U V^\top` of a matrix :math:`x = U \Sigma V^\top`, shape (rows, columns): with five iterations singular values of at
    least 0.003 of the Frobenius norm come between 0.68 and 1.14. Zero stays zero."""
    turned = x.shape[0] > x.shape[1]
    y = x.mT if turned else x
    y = y / y.abs().amax().clamp(min=torch.finfo(y.dtype).tiny)  # squares of it neither overflow nor vanish
    y = y / y.norm().clamp(min=1e-7)
    narrow = precision == "bfloat16" and y.dtype is torch.float32
    found: Tensor = _Quintic.apply(y.bfloat16() if narrow else y, num_iterations)
    found = found.to(x.dtype)
    return found.mT if turned else found


def size_of_step(scale: str, rows: int, columns: int) -> float:
    r"""What the polar factor is multiplied by: ``moonlight`` :math:`0.2 \sqrt{\max(m, n)}`, the root mean square of Adam's steps
    (Liu et al., arXiv:2502.16982, section 2.2); ``keller_jordan`` :math:`\sqrt{\max(1, m / n)}`; ``none`` 1."""
    if scale == "moonlight":
        return 0.2 * float(max(rows, columns)) ** 0.5
    return max(1.0, rows / columns) ** 0.5 if scale == "keller_jordan" else 1.0


@transform
class Orthogonalise(Transform):
    """u <- size * polar(u), dimensions after the first being columns; a vector is a matrix of one column"""

    scale: str = "moonlight"
    num_iterations: int = 5
    precision: str = "float32"
    reach = Reach.MATRIX
    compiles = False  # it is products of matrices, for which a compiler has nothing better

    def update(self, u: Tensor, at: At) -> tuple[Tensor, State]:
        if u.numel() == 0:
            return u, {}
        x = u.reshape(u.shape[0] if u.dim() else 1, -1)
        size = size_of_step(self.scale, *x.shape)
        return size * polar(x, self.num_iterations, self.precision).reshape(u.shape), {}

    def explain(self, shapes: Iterable[tuple[int, ...]]) -> list[str]:
        return explain_sizes(self.scale, shapes)


def explain_sizes(scale: str, shapes: Iterable[tuple[int, ...]]) -> list[str]:
    """How far matrices of these shapes move at a learning rate of one: in the spectral norm, and in root mean square."""
    lines = []
    for rows, columns in sorted({(s[0], math.prod(s[1:])) for s in shapes if len(s) > 1 and 0 not in s}):
        size = size_of_step(scale, rows, columns)
        rms = size / max(rows, columns) ** 0.5
        lines.append(
            f"steps     {rows} x {columns} by {size:.3g} lr in every direction, {rms:.3g} lr in root mean square"
        )
    return lines


def orthogonalise(
    scale: Scale = "moonlight", num_iterations: int = 5, precision: Precision = "float32"
) -> Orthogonalise:
    r"""Replace every matrix by its polar factor, :math:`u = U \Sigma V^\top \mapsto s\, U V^\top`: steepest descent in the spectral norm
    (Bernstein & Newhouse, arXiv:2409.20325, on Shampoo). Newton-Schulz iterations of Jordan et al. (2024), ``size_of_step`` is
    :math:`s`. ``precision="bfloat16"`` iterates in bfloat16, as on GPUs."""
    check_polar("orthogonalise", scale, num_iterations, precision)
    return Orthogonalise(scale, num_iterations, precision)


def check_polar(owner: str, scale: str, num_iterations: int, precision: str) -> None:
    """Raise unless these are a scale, a count and a precision."""
    whole(owner, "num_iterations", num_iterations)
    for name, value, known in (("scale", scale, SCALES), ("precision", precision, ("float32", "bfloat16"))):
        if value not in known:
            raise InvalidValueError(
                f"{owner} got {name}={value!r}. Expected one of {', '.join(known)}. Write for example {name}={known[0]!r}."
            )
