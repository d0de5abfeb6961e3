r"""The linear stability of any chain: computed from its steps, not looked up.

On a quadratic of curvature :math:`\lambda` a chain moves its state by a matrix :math:`M(\lambda)`; training is stable while no eigenvalue
is larger than one in size. For a frozen preconditioner P, a decoupled decay :math:`\mu` and a gradient filter with z-transform F the first to
leave is :math:`z = -1`, at :math:`\lambda_{\max}(P^{-1} H) = (2 - \eta\mu) / (\eta F(-1))`: gradient descent 2/lr (Cohen et al.,
arXiv:2103.00065), Adam (2 + 2 b1) / ((1 - b1) lr), or 38/lr at b1 = 0.9 (Cohen et al., arXiv:2207.14484).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fallline.core.errors import InvalidTypeError, InvalidValueError
from fallline.core.gradients import Search
from fallline.core.transform import Chain
from fallline.core.types import Schedule
from fallline.flows.onestep import LATE, OneStep

__all__ = ["Stability", "stability"]

FROZEN = 2.0**60
"""Where second moments are frozen: so large that ``eps`` is nothing beside their root."""

LARGE = 2.0**50
"""A curvature large enough that its effect is not lost beside 1 where second moments stand at FROZEN."""

MOST = 64
"""The longest period of steps that is looked for: lookahead and the like act at every k-th step."""

TOLERANCE = 1e-7  # an eigenvalue this much beyond one is rounding


@dataclass(frozen=True)
class Stability:
    """What a chain does to a quadratic of curvature ``lam``; made by ``stability(chain)``.

    ``lam`` is an eigenvalue of the Hessian, or, where ``preconditioned``, of :math:`P^{-1/2} H P^{-1/2}` with P what the chain divides by:
    for Adam :math:`\\sqrt{\\hat v} + \\epsilon`, read from the optimizer's state.
    """

    threshold: float | None
    """The curvature from which training is unstable; infinite if it never is, None if there is no linear answer."""
    reason: str
    """One sentence: what the threshold is for, or why there is none and what to measure instead."""
    preconditioned: bool = False
    power: float = 0.0
    """P is this power of the second moment."""
    period: int = 1
    """How many steps the chain takes until it repeats itself; the map and its radius are per step."""
    maps: _Maps | None = field(default=None, repr=False)

    def multipliers(self, lam: float) -> Tensor:
        """The eigenvalues of the map at curvature ``lam`` over ``period`` steps, complex, largest first."""
        if self.maps is None:
            raise InvalidValueError(
                f"There is no linear map: {self.reason} Expected a chain with a threshold. Measure the critical sharpness of the "
                f"run instead: 2 / (the smallest step along the update that raises the loss)."
            )
        found = torch.linalg.eigvals(self.maps(torch.tensor([float(lam)], dtype=torch.float64))[0])
        return found[found.abs().argsort(descending=True)]

    def radius(self, lam: float) -> float:
        """The factor by which the state grows a step, in the long run, at curvature ``lam``."""
        return float(self.multipliers(lam)[0].abs()) ** (1 / self.period)

    def share(self, lam: float) -> float:
        """``lam / threshold``: 1 is the edge of stability."""
        if self.threshold is None or self.threshold == 0:
            self.multipliers(lam)
            raise InvalidValueError(
                f"The threshold is {self.threshold}. Expected one above 0. The chain is unstable at every curvature."
            )
        return lam / self.threshold


def stability(chain: Chain, step: int | None = None) -> Stability:
    r"""The linear stability of a chain, from the map of its own steps on a quadratic.

    ``step`` says at which step schedules are read; they must be read somewhere. Everything else that depends on time (bias corrections, a
    momentum that warms up) is taken at its end. What a step declares ``nonnegative`` is frozen: curvature is then that of
    :math:`P^{-1/2} H P^{-1/2}`. Signs and orthogonalised updates are linear at no scale, so they have no threshold.

    stability(adamw(lr=1e-3)).threshold  # 38000
    """
    chain = _at_step(_checked(chain), step)
    searching = [type(s).__name__ for s in chain.steps for r in s.gradients.values() if isinstance(r, Search)]
    if searching:
        return _none(f"{searching[0]} searches its step anew each time")
    with torch.no_grad():
        near = OneStep(chain)
        trouble = near.trouble or _sentence(near.nonlinear())
        if trouble:
            return _none(trouble)
        maps = _Maps.of(chain, near)
    if isinstance(maps, str):
        return _none(maps)
    threshold = _first_crossing(maps)
    of = "P^-1/2 H P^-1/2, P read from the optimizer's state" if maps.power else "the Hessian"
    found = "Unstable at every curvature" if threshold == 0 else f"Unstable where an eigenvalue exceeds {threshold:.6g}"
    return Stability(threshold, f"{found}, of {of}.", maps.power != 0, maps.power, maps.period, maps)


@dataclass(frozen=True)
class _Maps:
    """M(lam) over a period of steps, for many curvatures at once: affine in lam where ``slopes`` are known."""

    one: OneStep
    times: tuple[int, ...]
    rows: Tensor  # of the state, what the parameter depends on
    unit: float  # P: curvatures are multiplied by it
    power: float
    slopes: tuple[tuple[Tensor, Tensor], ...]  # (M(0), dM/dlam) for each time

    @property
    def period(self) -> int:
        return len(self.times)

    @classmethod
    def of(cls, chain: Chain, near: OneStep) -> _Maps | str:
        """The maps of a chain that is linear near rest, or why they are of no use."""
        power, one, unit = 0.0, near, 1.0
        if any(step.nonnegative for _, step in near.steps):
            one = OneStep(chain, FROZEN)
            found = _power([one, OneStep(chain, 4 * FROZEN), OneStep(chain, 16 * FROZEN)])
            if found is None:
                return "what it divides by is no power of its second moments"
            power, unit = found, FROZEN**found
        moves = [one.response(unit, t) for t in range(LATE, LATE + MOST)]
        period = next((k for k in range(1, MOST // 2 + 1) if _repeats(moves, k)), None)
        if period is None:
            return "its map changes from step to step (random numbers, or a period beyond 32)"
        times = tuple(range(LATE, LATE + period))
        all_maps = [one.matrix(unit, t) for t in times]
        if not all(m.isfinite().all() for m in all_maps):
            return "its map is not finite"
        rows = _seen(sum((m.abs() for m in all_maps), torch.zeros_like(all_maps[0])))
        slopes = []
        for t in times:
            start = one.matrix(0.0, t)
            slope = (one.matrix(LARGE * unit, t) - start) / LARGE
            if all(_close(one.matrix(x * unit, t), start + x * slope) for x in (2.0**-20, 1.0, 2.0**10, 2.0**20)):
                slopes.append((start[rows][:, rows], slope[rows][:, rows]))
        return cls(one, times, rows, unit, power, tuple(slopes) if len(slopes) == period else ())

    def __call__(self, lams: Tensor) -> Tensor:
        """Products over a period, shape (curvatures, state, state)."""
        product = torch.eye(len(self.rows), dtype=torch.float64).expand(len(lams), -1, -1)
        for i, t in enumerate(self.times):
            if self.slopes:
                start, slope = self.slopes[i]
                m = start + lams[:, None, None] * slope
            else:
                with torch.no_grad():
                    found = [self.one.matrix(float(x) * self.unit, t) for x in lams]
                m = torch.stack(found)[:, self.rows][:, :, self.rows]
            product = m @ product
        return product


def _power(near: list[OneStep]) -> float | None:
    """The power of the second moments, at scales of ratio 4, that the effect of the curvature is divided by."""
    effects = [one.matrix(LARGE)[0] - one.matrix(0.0)[0] for one in near]
    if not all(e.isfinite().all() for e in effects):
        return None
    i = int(effects[0].abs().argmax())
    a, b, c = (abs(float(e[i])) for e in effects)
    if a == 0:
        return 0.0
    if b == 0 or c == 0 or abs(math.log(a / b, 4) - math.log(b / c, 4)) > 1e-6:
        return None
    power = math.log(a / b, 4)
    return round(24 * power) / 24 if abs(24 * power - round(24 * power)) < 1e-5 else power


def _close(a: Tensor, b: Tensor) -> bool:
    return bool(torch.allclose(a, b, rtol=1e-9, atol=1e-9 * float(b.abs().max())))


def _repeats(moves: list[Tensor], k: int) -> bool:
    """Whether a generic state is moved alike at steps that are k apart."""
    return all(torch.allclose(a, b, rtol=1e-6, atol=1e-9) for a, b in zip(moves, moves[k:], strict=False))


def _seen(pattern: Tensor) -> Tensor:
    """The entries of the state that the parameter, entry 0, depends on; averages kept beside it are left out."""
    reached = torch.zeros(len(pattern), dtype=torch.bool)
    reached[0] = True
    for _ in range(len(pattern)):
        reached = reached | (pattern[reached] > 0).any(0)
    return reached.nonzero().flatten()


def _first_crossing(maps: _Maps) -> float:
    """The smallest curvature at which the radius exceeds one: a grid over 24 decades, then bisection."""
    grid = 2.0 ** (torch.arange(-160, 161, dtype=torch.float64) / 4)

    def unstable(lams: Tensor) -> Tensor:
        products = maps(lams)
        sizes = torch.linalg.eigvals(products.nan_to_num(0.0, 0.0, 0.0)).abs().amax(-1)
        return (sizes > (1 + TOLERANCE) ** maps.period) | ~products.isfinite().flatten(1).all(1)

    bad = unstable(grid).nonzero().flatten()
    if len(bad) == 0:
        return math.inf
    k = int(bad[0])
    if k == 0:
        return 0.0
    low, high = float(grid[k - 1]), float(grid[k])
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if bool(unstable(torch.tensor([middle], dtype=torch.float64))) else (middle, high)
    return (low + high) / 2


def _checked(chain: Any) -> Chain:
    if not isinstance(chain, Chain):
        raise InvalidTypeError(
            f"stability() got {chain!r}. Expected a chain. Call the method first, as in stability(adamw(lr=1e-3)), or pass "
            f"optimizer.current_chain()."
        )
    return chain


def _at_step(chain: Chain, step: int | None) -> Chain:
    moving = {name: h for name, h in chain.hypers.items() if isinstance(h, Schedule)}
    if moving and step is None:
        raise InvalidValueError(
            f"stability() got a chain whose {', '.join(moving)} follows a schedule, and no step. Expected the step at which to read it. "
            f"Pass step=, counted from 1."
        )
    return chain.rebuild({name: h(step) for name, h in moving.items()}) if moving and step is not None else chain


def _sentence(step: str) -> str:
    return step and f"`{step}` is not linear, however small its input"


def _none(why: str) -> Stability:
    return Stability(None, f"{why[0].upper()}{why[1:]}: none, use critical sharpness.")
