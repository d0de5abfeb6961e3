r"""The one-step map of any chain on a quadratic, found by running the chain's own pure steps.

On :math:`E = \lambda \|p\|^2 / 2` a method moves the state :math:`s = (p, \text{slots})` by :math:`s \leftarrow M(\lambda)\, s` as far as it
is linear. The columns of M are central differences of ``update`` itself, so the map belongs to the code that trains.

Squared gradients are frozen: slots that a step declares ``nonnegative`` stand where they are ``scale`` after the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product

import torch
from torch import Tensor

from fallline.core.gradients import FullGradient, GradientAt, Search, VarianceOfParts
from fallline.core.transform import Chain, FromSite, Site, Transform, named_steps
from fallline.core.types import At, Reach, State

__all__ = ["LATE", "OneStep", "Trace"]

LATE = 10**9
"""The step at which maps are taken: starts (bias corrections, warming momenta) are over."""

DIRECTION = torch.outer(*2 * [torch.tensor([1.0, -3.0, 2.0], dtype=torch.float64)])
"""Where perturbations point: of mean zero along every dimension, so that centred updates keep it, and of unequal entries, so that a
sign is told from a multiple."""

SMALL, MINUTE = 2.0**-12, 2.0**-200
"""Sizes of perturbations: the first stands for gradients as they are met, the second for the limit."""


@dataclass(frozen=True)
class Trace:
    """One run of a chain: the new state, and the update that left every step."""

    p: Tensor
    slots: State
    updates: list[tuple[str, Tensor]]


@dataclass
class OneStep:
    """A chain on the quadratic of a given curvature, from any state near its rest."""

    chain: Chain
    scale: float = 1.0
    steps: list[tuple[str, Transform]] = field(init=False)
    rest: State = field(init=False)
    keys: list[str] = field(init=False)  # the linear part of the state: "p" and slots of any sign
    trouble: str = field(init=False, default="")  # why there is no linear map, if that shows in the slots

    def __post_init__(self) -> None:
        self.steps = named_steps(self.chain.steps)
        self.rest = self._created()
        self._settle()
        self.keys = ["p", *(k for k, v in self.rest.items() if k not in self._frozen and v.is_floating_point())]
        for key in self.keys[1:]:
            if self.rest[key].shape not in (DIRECTION.shape, torch.Size([])):
                self.trouble = f"`{key.rpartition('.')[0]}` keeps {key} in a space of its own"
        for key, step in self.steps:
            if step.rows:
                self.trouble = f"`{key}` keeps something for every batch"

    @property
    def _frozen(self) -> set[str]:
        return {f"{key}.{slot}" for key, step in self.steps for slot in step.nonnegative}

    def _created(self) -> State:
        slots: State = {}
        for key, step in self.steps:
            for slot, init in step.slots.items():
                p, site = torch.zeros_like(DIRECTION), Site("p", f"{key}.{slot}", 0)
                slots[f"{key}.{slot}"] = init.make(step, p, site) if isinstance(init, FromSite) else init(step, p)
        return slots

    # -- running --------------------------------------------------------------------------------------------------------

    def run(self, curvature: float | Tensor, p: Tensor, slots: Mapping[str, Tensor], t: int = LATE) -> Trace:
        """One step from p with these slots: requests are answered, then the chain runs, then p moves."""
        g = curvature * p
        loss = 0.5 * (g * p).sum()
        slots = {**slots, **self._answers(curvature, At(p, g, t, loss), slots)}
        u, new, updates = g, dict(slots), []
        for key, step in self.steps:
            own = {s: slots[f"{key}.{s}"] for s in step.slots}
            at = At(p, g, t, loss)
            if step.reach == Reach.GROUP:
                total = step.measure(u, at, **own)
                at = at._replace(total=total, totals=tuple(total.unbind()) if total.dim() else ())
            u, changed = step.update(u, at, **own)
            new.update({f"{key}.{s}": value for s, value in changed.items()})
            updates.append((key, u))
        return Trace(p - u, new, updates)

    def _answers(self, curvature: float | Tensor, at: At, slots: Mapping[str, Tensor]) -> State:
        """What steps ask for besides the gradient, on the quadratic; a search finds nothing here."""
        found: State = {}
        for key, step in self.steps:
            for slot, request in step.gradients.items():
                own = {s: found.get(f"{key}.{s}", slots[f"{key}.{s}"]) for s in step.slots}
                if isinstance(request, Search) or not request.due(step, int(at.t)):
                    continue
                if isinstance(request, GradientAt):
                    found[f"{key}.{slot}"] = curvature * request.point(step, at, **own)
                elif isinstance(request, FullGradient):
                    found[f"{key}.{slot}"] = at.g
                elif isinstance(request, VarianceOfParts):
                    found[f"{key}.{slot}"] = torch.zeros_like(at.p)
        return found

    # -- rest -----------------------------------------------------------------------------------------------------------

    @cached_property
    def moves_at_rest(self) -> bool:
        """Whether it moves where the gradient is zero, as added noise does."""
        return bool(self.run(1.0, torch.zeros_like(DIRECTION), self.rest).updates[-1][1].any())

    def _settle(self) -> None:
        """Where slots stand at p = 0: fixed points, or far along where they grow for ever; frozen ones at ``scale``."""
        origin = torch.zeros_like(DIRECTION)
        moving = [k for k, v in self.rest.items() if v.is_floating_point() and k not in self._frozen]
        for _ in range(3):
            first = self.run(1.0, origin, self.rest).slots
            second = self.run(1.0, origin, {**self.rest, **{k: first[k] for k in moving}}).slots
            for k in moving:
                a, b, c = self.rest[k], first[k], second[k]
                bend = c - 2 * b + a
                limit = a - (b - a).square() / bend
                grows = (bend.abs() <= 1e-12 * (b - a).abs()) & (a != b)
                value = torch.where(grows, a + (b - a) * LATE, torch.where(bend == 0, b, limit))
                self.rest[k] = torch.where(value.isfinite(), value, a)
        self._freeze(origin)

    def _freeze(self, origin: Tensor) -> None:
        frozen = sorted(self._frozen)
        low, high = ({**self.rest, **{k: torch.full_like(self.rest[k], x) for k in frozen}} for x in (0.0, self.scale))
        below, above = (self.run(1.0, origin, slots).slots for slots in (low, high))
        for k in frozen:
            share = (above[k] - below[k]) / self.scale  # of the old value in the new one
            if not bool((share > 1e-9).all()):
                self.trouble = f"`{k.rpartition('.')[0]}` divides by the size of the present gradient alone"
            value = (self.scale - below[k]) / share.clamp(min=1e-9)
            self.rest[k] = torch.where(value.isfinite() & (value > 0), value, torch.full_like(value, self.scale))
        self._read_before_write(origin)

    def _read_before_write(self, origin: Tensor) -> None:
        """Slots that a step reads before the gradient enters them stand at ``scale`` before the step.

        At gradients of such a size that the slots stay where they are, the gain of a step is that of the frozen one; so it tells.
        """
        for key, step in self.steps:
            names = [s for s in step.slots if f"{key}.{s}" in self._frozen]
            if not names or step.reach == Reach.GROUP or step.needs:
                continue
            own = {s: self.rest[f"{key}.{s}"] for s in step.slots}
            fixed = {s: torch.full_like(own[s], self.scale) for s in names}
            for size in (self.scale**0.5, self.scale):
                unit = size * torch.ones_like(origin)
                u, new = step.update(unit, At(origin, unit, LATE), **{**own, **fixed})
                if all(torch.allclose(new.get(s, fixed[s]), fixed[s], rtol=1e-6) for s in names):
                    break
            else:
                continue
            wanted, tiny = u / unit, 2.0**-30 * unit
            best = torch.inf
            for early in product((False, True), repeat=len(names)):
                slots = {**own, **{s: fixed[s] for s, is_early in zip(names, early, strict=True) if is_early}}
                gain = step.update(tiny, At(origin, tiny, LATE), **slots)[0] / tiny
                miss = float((gain - wanted).abs().max())
                if miss < best:
                    best = miss
                    self.rest.update({f"{key}.{s}": slots[s] for s in names})

    # -- the map --------------------------------------------------------------------------------------------------------

    def shifted(self, key: str, by: float) -> tuple[Tensor, State]:
        """The rest with one entry of the linear state moved."""
        p, slots = torch.zeros_like(DIRECTION), dict(self.rest)
        if key == "p":
            p = by * DIRECTION
        else:
            slots[key] = slots[key] + by * (DIRECTION if slots[key].dim() else 1.0)
        return p, slots

    def column(self, curvature: float, key: str, size: float, t: int = LATE) -> list[float]:
        """A central difference of the new state in one entry of the old one, divided by the size of the change."""
        ahead, behind = (self.run(curvature, *self.shifted(key, x), t) for x in (size, -size))
        entries = []
        for k in self.keys:
            a, b = (ahead.p, behind.p) if k == "p" else (ahead.slots[k], behind.slots[k])
            entries.append(float(_along((a - b) / (2 * size))))
        return entries

    def matrix(self, curvature: float, t: int = LATE) -> Tensor:
        """M(curvature), rows and columns in the order of ``keys``."""
        size = self._size
        columns = [self.column(curvature, key, size, t) for key in self.keys]
        return torch.tensor(columns, dtype=torch.float64).T

    @property
    def _size(self) -> float:
        return SMALL if self.moves_at_rest else MINUTE

    def response(self, curvature: float, t: int) -> Tensor:
        """M(curvature) times a generic state, shape (state,)."""
        runs = []
        for size in (self._size, -self._size):
            slots = dict(self.rest)
            for i, key in enumerate(self.keys[1:]):
                slots[key] = self.shifted(key, (1.0 + 0.37 * i) * size)[1][key]
            run = self.run(curvature, size * DIRECTION, slots, t)
            runs.append([run.p, *(run.slots[k] for k in self.keys[1:])])
        return torch.stack([_along((a - b) / (2 * self._size)) for a, b in zip(*runs, strict=True)])

    def nonlinear(self, tolerance: float = 1e-3) -> str:
        """The first step that is not linear near rest, or "": small changes are added, doubled, and made minute.

        Curvatures differ between coordinates here, or a ratio of norms would look like a number.
        """
        uneven = 1 + 0.1 * torch.arange(DIRECTION.numel(), dtype=torch.float64).reshape(DIRECTION.shape)
        alone = [self._odd(uneven, {k: DIRECTION}, SMALL) for k in self.keys]
        double = [self._odd(uneven, {k: 2 * DIRECTION}, SMALL) for k in self.keys]
        minute = alone if self.moves_at_rest else [self._odd(uneven, {k: DIRECTION}, MINUTE) for k in self.keys]
        other = DIRECTION.roll(1, 0)
        aside = [self._odd(uneven, {k: other}, SMALL) for k in self.keys]
        both = [self._odd(uneven, {k: DIRECTION + other}, SMALL) for k in self.keys]
        together = self._odd(uneven, dict.fromkeys(self.keys, DIRECTION), SMALL)
        even = [self._odd(torch.ones_like(uneven), {k: DIRECTION}, SMALL) for k in self.keys]
        for i, (key, _) in enumerate(self.steps):
            pairs = [(together[i], sum((x[i] for x in alone), torch.zeros_like(DIRECTION)))]
            for a, d, m, o, b, e in zip(alone, double, minute, aside, both, even, strict=True):
                pairs += [(d[i], 2 * a[i]), (m[i], a[i]), (b[i], a[i] + o[i]), (e[i], _along(e[i]) * DIRECTION)]
            limit = tolerance * max(float(x[i].abs().max()) for x in alone)
            if not all(float((a - b).abs().max()) <= limit for a, b in pairs):
                return key
        return ""

    def _odd(self, curvature: Tensor, change: Mapping[str, Tensor], size: float) -> list[Tensor]:
        """Central differences of the update after every step, along a change of some entries of the state."""
        runs = []
        for step in (size, -size):
            slots = dict(self.rest)
            for key, along in change.items():
                if key != "p":
                    slots[key] = slots[key] + step * (along if slots[key].dim() else along.norm())
            p = step * change["p"] if "p" in change else torch.zeros_like(DIRECTION)
            runs.append(self.run(curvature, p, slots).updates)
        return [(a - b) / (2 * size) for (_, a), (_, b) in zip(*runs, strict=True)]


def _along(x: Tensor) -> Tensor:
    """The component of a change along DIRECTION; a number is its own."""
    return (x * DIRECTION).sum() / DIRECTION.square().sum() if x.dim() else x
