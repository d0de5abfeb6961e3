r"""Stochastic differential equations and their solvers: Euler-Maruyama, Heun, Milstein, over many paths at once.

.. math:: dX = a(X)\, dt + B(X)\, dW \qquad \text{(Ito)}
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor
from torch.func import vjp, vmap

from fallline.core.errors import InvalidValueError
from fallline.flows.fields import Field

__all__ = ["Scheme", "Sde", "brownian", "solve_sde"]

Scheme = Literal["euler_maruyama", "heun", "milstein"]


@dataclass(frozen=True)
class Sde:
    """An Ito equation by its drift, (d,) to (d,), and its diffusion: (d,) to (d, m), or, if ``diagonal``, to (d,)."""

    drift: Field
    diffusion: Callable[[Tensor], Tensor]
    diagonal: bool = False

    @property
    def noise(self) -> str:
        """What kind of noise it has, in words."""
        return "diagonal" if self.diagonal else "general"


def brownian(steps: int, paths: int, dim: int, until: float, seed: int = 0) -> Tensor:
    """Increments of Brownian motion over equal steps, shape (steps, paths, dim), in float64. Sums of them are those of longer steps."""
    generator = torch.Generator().manual_seed(seed)
    return (until / steps) ** 0.5 * torch.randn(steps, paths, dim, generator=generator, dtype=torch.float64)


def solve_sde(sde: Sde, start: Tensor, increments: Tensor, until: float, scheme: Scheme = "euler_maruyama") -> Tensor:
    r"""Ends of paths that start at ``start``, shape (d,) or (paths, d), driven by ``brownian`` increments: shape (paths, d).

    - ``euler_maruyama``: strong order 1/2 (1 where the noise is additive), weak order 1.
    - ``milstein`` adds :math:`\frac12 b\, b' (\Delta W^2 - h)`: strong order 1. For diagonal noise in which entry i of b depends on entry i of x.
    - ``heun``: the trapezoidal rule on the Stratonovich form, with drift :math:`a - \frac12 b\, b'`: strong order 1 for such noise, and, where the
      noise is additive, the drift's second order for small noise.
    """
    if scheme not in get_args(Scheme):
        raise InvalidValueError(
            f"solve_sde() got scheme={scheme!r}. Expected one of {', '.join(get_args(Scheme))}. Pass one of them."
        )
    if scheme != "euler_maruyama" and not sde.diagonal:
        raise InvalidValueError(
            f"solve_sde() got scheme={scheme!r} and {sde.noise} noise. Expected diagonal noise. Use euler_maruyama, or write the "
            f"diffusion as a vector and say diagonal=True."
        )
    steps, paths, _ = increments.shape
    h, x = until / steps, start.expand(paths, -1) if start.dim() == 1 else start
    drift, diffusion = vmap(sde.drift), vmap(sde.diffusion)
    ito = vmap(lambda y: _half_b_db(sde.diffusion, y))
    for dw in increments:
        if scheme == "heun":
            a, b = drift(x) - ito(x), diffusion(x)
            guess = x + h * a + b * dw
            x = x + h / 2 * (a + drift(guess) - ito(guess)) + (b + diffusion(guess)) / 2 * dw
            continue
        b = diffusion(x)
        moved = b * dw if sde.diagonal else torch.einsum("pij,pj->pi", b, dw)
        extra = ito(x) * (dw.square() - h) if scheme == "milstein" else 0.0
        x = x + h * drift(x) + moved + extra
    return x


def _half_b_db(diffusion: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """b b' / 2, entry by entry: b's Jacobian is diagonal, so its pull-back of b is b b'."""
    value, pull = cast(tuple[Tensor, Callable[[Tensor], tuple[Tensor]]], vjp(diffusion, x))
    return pull(value)[0] / 2
