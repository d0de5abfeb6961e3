"""Gates: a step or chain for some parameters only, in some steps only, or until a step and then another.

A gated step has the fields and slots of the step inside it, so that hyperparameters, state and checkpoints keep their names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from fallline.core.errors import InvalidTypeError, InvalidValueError
from fallline.core.groups import matches
from fallline.core.transform import Chain, FromSite, Init, Site, Transform, named_steps, step_name, transform
from fallline.core.types import At, Reach, State
from fallline.transforms.average import whole

__all__ = ["Gated", "every", "masked", "switch"]

Which = str | Callable[[Tensor], bool]
Steps = tuple[Transform, ...]


class Gate(Transform):
    """Base of a gated step; its subclass for a kind of step and a gate has that kind's fields."""

    kind: ClassVar[type[Transform]]
    gate: ClassVar[Any]

    @property
    def inside(self) -> Transform:
        """The step behind the gate, with the present hyperparameters."""
        return self.kind(**{f.name: getattr(self, f.name) for f in fields(self.kind)})

    def __reduce__(self) -> tuple[Any, ...]:  # the subclass is made, not found, when it is loaded
        return _gated, (type(self).__mro__[1], self.inside, self.gate)


def _gated(base: type[Gate], inside: Transform, gate: Any) -> Gate:
    return _gate_of(base, type(inside), gate)(**{f.name: getattr(inside, f.name) for f in fields(inside)})


@cache
def _gate_of(base: type[Gate], kind: type[Transform], gate: Any) -> type[Gate]:
    """The subclass of ``base`` for a kind of step. It is named like the kind, since it names the state."""
    space: dict[str, Any] = {
        "__annotations__": {f.name: f.type for f in fields(kind)},
        "__qualname__": f"{base.__name__}[{kind.__name__}]",
        "__module__": base.__module__,
        "__doc__": kind.__doc__,
        "kind": kind,
        "gate": gate if isinstance(gate, int | str) else staticmethod(gate),
        "reach": max(kind.reach, base.reach),
        "slots": {name: _created_inside(init) for name, init in kind.slots.items()},
        "nonnegative": kind.nonnegative,
        "needs": kind.needs,
        "domains": kind.domains,
        "compiles": kind.compiles,
    }
    if base is Masked:
        space["mask"] = "mask" + "_" * sum(name.startswith("mask") for name in kind.slots)  # of a mask around a mask
        space["slots"][space["mask"]] = FromSite(_open)
    if kind.average is not Transform.average:
        space["average"] = base._average  # type: ignore[attr-defined]
    return transform(type(kind.__name__, (base,), space))


def _created_inside(init: Init) -> Init:
    if isinstance(init, FromSite):
        return FromSite(lambda step, p, site: init.make(step.inside, p, site))
    return lambda step, p: init(step.inside, p)


def _either(first: bool | Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(first, a, b) if isinstance(first, Tensor) else a if first else b


class Every(Gate):
    """the step inside at each ``gate``-th step, counting only those; between them u passes and the state rests"""

    gate: ClassVar[int]

    def measure(self, u: Tensor, at: At, **slots: Tensor) -> Tensor:
        return self.inside.measure(u, at._replace(t=at.t // self.gate), **slots)

    def update(self, u: Tensor, at: At, **slots: Tensor) -> tuple[Tensor, State]:
        due = at.t % self.gate == 0
        if due is False:
            return u, {}
        v, new = self.inside.update(u, at._replace(t=at.t // self.gate), **slots)
        return _either(due, v, u), {name: _either(due, x, slots[name]) for name, x in new.items()}

    def _average(self, p: Tensor, **slots: Tensor) -> Tensor:
        return self.inside.average(p, **slots)


def _open(step: Any, p: Tensor, site: Site) -> Tensor:
    if callable(step.gate):
        found = bool(step.gate(p))
    elif site.name and re.fullmatch(r"parameter \d+ of group \d+", site.name):
        raise InvalidValueError(
            f"masked() with the pattern {step.gate!r} got {site.name}, which has no name. Expected named parameters. Pass the "
            f"model or model.named_parameters() to the optimizer, or a function of the parameter in place of the pattern."
        )
    else:
        found = matches(site.name, step.gate)
    return p.new_ones(()) if found else p.new_zeros(())


class Masked(Gate):
    """the step inside on parameters that match ``gate``; on others u passes and the state rests"""

    reach = Reach.TENSOR  # tensors differ in whether they match
    gate: ClassVar[Which]
    mask: ClassVar[str]

    def measure(self, u: Tensor, at: At, **slots: Tensor) -> Tensor:
        mask = slots.pop(self.mask) > 0
        found = self.inside.measure(u, at, **slots)
        return torch.where(mask, found, torch.zeros_like(found))

    def update(self, u: Tensor, at: At, **slots: Tensor) -> tuple[Tensor, State]:
        mask = slots.pop(self.mask) > 0
        v, new = self.inside.update(u, at, **slots)
        return torch.where(mask, v, u), {name: torch.where(mask, x, slots[name]) for name, x in new.items()}

    def _average(self, p: Tensor, **slots: Tensor) -> Tensor:
        mask = slots.pop(self.mask) > 0
        return torch.where(mask, self.inside.average(p, **slots), p)


class Switch(Transform):
    """one sequence of steps while t <= ``gate``, another after it, which has watched all the while"""

    kinds: ClassVar[tuple[tuple[type[Transform], ...], tuple[type[Transform], ...]]]
    gate: ClassVar[int]

    @property
    def inside(self) -> tuple[Steps, Steps]:
        """Both sequences, with the present hyperparameters."""
        made = [
            tuple(
                kind(**{f.name: getattr(self, _field(side, i, f.name)) for f in fields(kind)})
                for i, kind in enumerate(kinds)
            )
            for side, kinds in zip(_SIDES, self.kinds, strict=True)
        ]
        return made[0], made[1]

    def update(self, u: Tensor, at: At, **slots: Tensor) -> tuple[Tensor, State]:
        early = at.t <= self.gate
        first, then = self.inside
        (a, held), (b, seen) = (
            ((u, {}) if early is False else _run("first", first, u, at, slots)),
            _run("then", then, u, at, slots),
        )
        return _either(early, a, b), {**{k: _either(early, x, slots[k]) for k, x in held.items()}, **seen}

    def __reduce__(self) -> tuple[Any, ...]:
        return _switched, (self.gate, *self.inside)


_SIDES = ("first", "then")


def _run(side: str, steps: Steps, u: Tensor, at: At, slots: State) -> tuple[Tensor, State]:
    new: State = {}
    for key, step in named_steps(steps):
        u, changed = step.update(u, at, **{s: slots[f"{side}.{key}.{s}"] for s in step.slots})
        new.update({f"{side}.{key}.{s}": value for s, value in changed.items()})
    return u, new


def _field(side: str, i: int, name: str) -> str:
    return f"{side}_{i}_{name}"


def _switched(gate: int, first: Steps, then: Steps) -> Switch:
    values = {
        _field(side, i, f.name): getattr(step, f.name)
        for side, steps in zip(_SIDES, (first, then), strict=True)
        for i, step in enumerate(steps)
        for f in fields(step)
    }
    return _switch_of(gate, tuple(map(type, first)), tuple(map(type, then)))(**values)


@cache
def _switch_of(gate: int, first: tuple[type[Transform], ...], then: tuple[type[Transform], ...]) -> type[Switch]:
    space: dict[str, Any] = {
        "__annotations__": {}, "__qualname__": "Switch", "__module__": Switch.__module__,
        "kinds": (first, then), "gate": gate, "slots": {}, "domains": {}, "nonnegative": frozenset(), "needs": frozenset(),
        "reach": max((kind.reach for kind in (*first, *then)), default=Reach.ELEMENT),
        "compiles": all(kind.compiles for kind in (*first, *then)),
    }  # fmt: skip
    for side, kinds in zip(_SIDES, (first, then), strict=True):
        for i, (key, kind) in enumerate(named_steps(kinds)):
            space["__annotations__"].update({_field(side, i, f.name): f.type for f in fields(kind)})
            space["domains"].update({_field(side, i, n): d for n, d in kind.domains.items()})
            space["slots"].update({f"{side}.{key}.{s}": _created_at(side, i, init) for s, init in kind.slots.items()})
            space["nonnegative"] |= {f"{side}.{key}.{s}" for s in kind.nonnegative}
            space["needs"] |= kind.needs
    return transform(type("Switch", (Switch,), space))


def _created_at(side: str, i: int, init: Init) -> Init:
    where = _SIDES.index(side)
    if isinstance(init, FromSite):
        return FromSite(lambda step, p, site: init.make(step.inside[where][i], p, site))
    return lambda step, p: init(step.inside[where][i], p)


class Gated(Chain):
    """Chains behind a gate: ``make`` turns their steps into gated ones; names and values of hyperparameters stay theirs."""

    def __init__(self, parts: Sequence[Transform | Chain], make: Any) -> None:
        super().__init__(parts)
        self.make = make

    @property
    def name(self) -> str:
        names = (part.name if isinstance(part, Chain) else step_name(part) for part in self.parts)
        return f"{self.make.name}({', '.join(names)})"

    @property
    def steps(self) -> Steps:
        found: Steps = self.make(*(part.steps for part in map(_as_chain, self.parts)))
        return found

    @property
    def options(self) -> dict[str, Any]:
        return {}

    def rebuild(self, values: Any) -> Gated:
        return Gated(super().rebuild(values).parts, self.make)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Gated) and (self.parts, self.make) == (other.parts, other.make)

    def __hash__(self) -> int:
        return hash((self.parts, self.make))

    def __repr__(self) -> str:
        return f"{self.make.name}({', '.join(map(repr, self.parts))}, {self.make.gate!r})"


@dataclass(frozen=True)
class _EachBehind:
    name: str
    base: type[Gate]
    gate: Any

    def __call__(self, steps: Steps) -> Steps:
        return tuple(_gated(self.base, step, self.gate) for step in steps)


@dataclass(frozen=True)
class _BothBehind:
    name: str
    gate: int

    def __call__(self, first: Steps, then: Steps) -> Steps:
        return (_switched(self.gate, first, then),)


def _as_chain(part: Transform | Chain) -> Chain:
    return part if isinstance(part, Chain) else Chain([part])


def _checked(owner: str, *parts: Transform | Chain) -> None:
    for part in parts:
        if not isinstance(part, Transform | Chain):
            raise InvalidTypeError(
                f"{owner}() got {part!r}. Expected a step or a chain. Write for example {owner}(decay(0.1), ...)."
            )
        for key, step in named_steps(_as_chain(part).steps):
            if step.gradients or step.rows:
                raise InvalidValueError(
                    f"{owner}() got the step {key}, for which the optimizer takes more gradients, gate or no gate. Expected steps "
                    f"that need the step's own. Leave {key} outside, as in chain({key}(...), {owner}(...))."
                )


def masked(step: Transform | Chain, which: Which) -> Gated:
    r"""A step, or each step of a chain, on some parameters only: ``masked(decay(0.1), "*weight")``,
    ``masked(clip_by_unit_norm(), lambda p: p.dim() > 1)``.

    ``which`` is a pattern of names as in ``groups``, or a function of the parameter, asked once when state is created. On the other
    parameters the update passes unchanged. A GROUP step sums over the parameters that match. To give parameters whole chains of
    their own, and no state to those without, use ``groups``.

    Raises:
        TypeError: for anything but a step or chain, and a pattern or function.
        ValueError: for steps that ask for gradients elsewhere; when the optimizer is built, for a pattern and parameters without
            names.
    """
    _checked("masked", step)
    if not isinstance(which, str) and not callable(which):
        raise InvalidTypeError(
            f"masked() got which={which!r}. Expected a pattern of names or a function of the parameter. Write for example "
            f"masked(decay(0.1), '*weight')."
        )
    return Gated([step], _EachBehind("masked", Masked, which))


def every(k: int, step: Transform | Chain) -> Gated:
    r"""A step, or each step of a chain, at each ``k``-th step only: ``every(10, decay(0.1))``. Between them the update passes
    unchanged and the state rests; the step's own count (of bias corrections, say) is of the times it was taken."""
    whole("every", "k", k)
    _checked("every", step)
    return Gated([step], _EachBehind("every", Every, k))


def switch(first: Transform | Chain, then: Transform | Chain, at: int) -> Gated:
    r"""One chain until step ``at``, another after it: ``switch(adamw(1e-3), sgd(0.1, momentum=0.9), at=1000)``.

    ``then`` sees every gradient from the first step on, so that its momentum and second moments are those it would have had all
    along, and its count of steps is the parameter's; until the switch its update is dropped. That costs its state and its time.
    From the switch on the state of ``first`` rests.

    Raises:
        ValueError: for steps that sum over all tensors, average the iterates or ask for gradients elsewhere: place them around
            the switch.
    """
    whole("switch", "at", at)
    _checked("switch", first, then)
    for step in (*_as_chain(first).steps, *_as_chain(then).steps):
        why = "sums over all tensors" if step.reach == Reach.GROUP else "averages the iterates"
        if step.reach == Reach.GROUP or type(step).average is not Transform.average:
            key = named_steps([step])[0][0]
            raise InvalidValueError(
                f"switch() got the step {key}, which {why}. Expected steps that do neither. Place it before or after the "
                f"switch, as in chain({key}(...), switch(...))."
            )
    return Gated([first, then], _BothBehind("switch", at))
