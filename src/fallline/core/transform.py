"""A transform: one pure step of an update rule; a chain: transforms in sequence.

A chain turns a gradient into the update that is subtracted from the parameter: ``p <- p - u``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar, NamedTuple, TypeVar, dataclass_transform

import torch
from torch import Tensor

from fallline.core.errors import InvalidTypeError, InvalidValueError, unknown
from fallline.core.gradients import Request
from fallline.core.hyper import Domain, check_hyper, domain_of
from fallline.core.types import At, Hyper, Reach, State

__all__ = ["Chain", "FromSite", "Init", "Site", "Transform", "chain", "scalars", "transform", "zeros"]

Init = Callable[[Any, Tensor], Tensor]
"""Creates a slot: (the transform, the parameter in compute precision) -> tensor."""


class Site(NamedTuple):
    """Where a slot stands: the parameter's name, the slot's (``adam.m``), and the seed of the optimizer."""

    name: str
    slot: str
    seed: int


@dataclass(frozen=True)
class FromSite:
    """An ``Init`` that depends on where the slot stands, too: (the transform, the parameter, the site) -> tensor."""

    make: Callable[[Any, Tensor, Site], Tensor]

    def __call__(self, step: Any, p: Tensor) -> Tensor:
        return self.make(step, p, Site("", "", 0))


class Transform:
    """One step: a frozen dataclass whose ``Hyper`` fields are its hyperparameters, other fields its structure."""

    reach: ClassVar[Reach] = Reach.ELEMENT
    slots: ClassVar[Mapping[str, Init]] = {}
    nonnegative: ClassVar[frozenset[str]] = frozenset()  # slots that are never below zero; 8-bit storage reads it
    needs: ClassVar[frozenset[str]] = frozenset()  # {"loss"}; what gradients and rows need is known without saying
    gradients: ClassVar[Mapping[str, Request]] = {}  # slots that the optimizer fills before update: gradients elsewhere
    rows: ClassVar[Mapping[str, Callable[[Any], int]]] = {}  # slots kept for every batch by itself, and of how many
    domains: ClassVar[Mapping[str, Domain]] = {}
    compiles: ClassVar[bool] = True  # false where most steps skip dear work, which compiled ones would do all the same
    _hypers: ClassVar[tuple[str, ...]] = ()
    _statics: ClassVar[tuple[str, ...]] = ()

    def update(self, u: Tensor, at: At, **slots: Tensor) -> tuple[Tensor, State]:
        """The next update and the new value of every slot. Pure: no in-place writes, no read-back, no device code."""
        raise NotImplementedError

    def measure(self, u: Tensor, at: At, **slots: Tensor) -> Tensor:
        """For reach GROUP: this tensor's term of the sum that ``update`` finds in ``at.total``, or, where it is 1-d, in
        ``at.totals``. It sees the slots as the last step left them."""
        raise NotImplementedError

    def average(self, p: Tensor, **slots: Tensor) -> Tensor:
        """For steps that average: the point to evaluate and to deploy, while the parameter holds the one to train at. Pure."""
        raise NotImplementedError

    def explain(self, shapes: Iterable[tuple[int, ...]]) -> list[str]:
        """Lines for ``Optimizer.explain()`` on what this step does to parameters of these shapes, if there is something to say."""
        return []


T = TypeVar("T", bound=Transform)
Step = TypeVar("Step", Transform, type[Transform])


@dataclass_transform(frozen_default=True)
def transform(cls: type[T]) -> type[T]:
    """Class decorator: make a Transform a frozen dataclass and note which of its fields are hyperparameters."""
    cls = dataclass(frozen=True)(cls)
    types = {f.name: f.type for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    cls._hypers = tuple(n for n, t in types.items() if t in (Hyper, "Hyper"))
    cls._statics = tuple(n for n in types if n not in cls._hypers)
    return cls


def zeros(*names: str) -> dict[str, Init]:
    """Slots that start at zero, shaped like the parameter."""
    return dict.fromkeys(names, _zeros_like)


def scalars(*names: str) -> dict[str, Init]:
    """Slots of one number per tensor that start at zero; they make a step's reach at least TENSOR."""
    return dict.fromkeys(names, _scalar_zero)


def _zeros_like(step: Transform, p: Tensor) -> Tensor:
    return torch.zeros_like(p)


def _scalar_zero(step: Transform, p: Tensor) -> Tensor:
    return p.new_zeros(())


class Chain:
    """Steps in sequence. Made by ``chain(...)`` or by calling a method: ``adamw(lr=3e-4)``.

    A chain knows its hyperparameters by name (``hypers``), its structural options (``options``), and how to be built
    anew with other values (``rebuild``), which is all that the optimizer needs to follow edits and schedules.
    """

    def __init__(self, parts: Iterable[Transform | Chain]) -> None:
        self.parts = tuple(parts)

    @cached_property
    def _names(self) -> dict[str, tuple[int, str]]:
        return _hyper_names(self.parts)

    @property
    def name(self) -> str:
        """What an error message or a checkpoint calls it."""
        return f"chain({', '.join(_part_name(part) for part in self.parts)})"

    @property
    def hypers(self) -> dict[str, Hyper]:
        """Every hyperparameter by name. Two steps with the same name for one are told apart as ``step.name``."""
        return {name: _part_hypers(self.parts[i])[own] for name, (i, own) in self._names.items()}

    @property
    def options(self) -> dict[str, Any]:
        """Structural choices by name (booleans and the like); they cannot change while training."""
        return {}

    def domain(self, name: str) -> Domain:
        """The allowed values of a hyperparameter."""
        i, own = self._names[name]
        part = self.parts[i]
        return part.domain(own) if isinstance(part, Chain) else _domain(part, own)

    @property
    def steps(self) -> tuple[Transform, ...]:
        """The flat list of steps."""
        flat: list[Transform] = []
        for part in self.parts:
            flat.extend(part.steps if isinstance(part, Chain) else (part,))
        return tuple(flat)

    @property
    def reach(self) -> Reach:
        """The farthest reach of any step."""
        return max((step.reach for step in self.steps), default=Reach.ELEMENT)

    @property
    def needs(self) -> frozenset[str]:
        """What the steps need besides gradients, such as the loss."""
        return frozenset().union(*(step_needs(step) for step in self.steps))

    def rebuild(self, values: Mapping[str, Any]) -> Chain:
        """The same chain with some hyperparameters or options replaced; unknown or invalid ones raise."""
        self.check(values)
        changes: dict[int, dict[str, Any]] = {}
        for name, value in values.items():
            i, own = self._names[name]
            changes.setdefault(i, {})[own] = value
        parts = list(self.parts)
        for i, change in changes.items():
            part = parts[i]
            parts[i] = part.rebuild(change) if isinstance(part, Chain) else dataclasses.replace(part, **change)  # type: ignore[type-var]
        return Chain(parts)

    def check(self, values: Mapping[str, Any]) -> None:
        """Raise if a name is unknown (the nearest known ones are listed) or a value lies outside its domain."""
        for name, value in values.items():
            if name not in self._names:
                raise unknown(f"hyperparameter of {self.name}", name, self._names)
            check_hyper(self.name, name, value, self.domain(name))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, Chain) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(self.parts)

    def __repr__(self) -> str:
        return f"chain({', '.join(map(repr, self.parts))})"


def chain(*parts: Transform | Chain) -> Chain:
    """Join steps and chains: ``chain(clip_by_global_norm(1.0), adamw(lr=3e-4))``.

    Raises TypeError for anything that is neither, ValueError for an empty chain or an invalid hyperparameter.
    """
    if not parts:
        raise InvalidValueError("chain() got no steps. Expected at least one. Write for example chain(adamw(lr=3e-4)).")
    for part in parts:
        if not isinstance(part, Transform | Chain):
            hint = f"Call it: {part.__name__}(...)." if isinstance(part, type) else "Pass for example adamw(lr=3e-4)."
            raise InvalidTypeError(f"chain() got {part!r}. Expected transforms or chains. {hint}")
        if isinstance(part, Transform):  # a chain has checked its own
            for name in part._hypers:
                check_hyper(step_name(part), name, getattr(part, name), _domain(part, name))
    return Chain(parts)


def step_name(step: Transform | type[Transform]) -> str:
    """The prefix of a step's state keys: ScaleByAdam -> adam, ClipByGlobalNorm -> clip_by_global_norm."""
    return _snake((step if isinstance(step, type) else type(step)).__name__)


@cache
def _snake(name: str) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return words.removeprefix("scale_by_")


def step_needs(step: Transform) -> frozenset[str]:
    """What a step needs besides the gradient: of "loss", "closure", "full" and "batch"."""
    return step.needs | {r.needs for r in step.gradients.values()} | ({"batch"} if step.rows else set())


def named_steps(steps: Iterable[Step]) -> list[tuple[str, Step]]:
    """Steps with the prefix of their state keys; a repeated step is numbered: trace, trace_2."""
    seen: dict[str, int] = {}
    named = []
    for step in steps:
        name = step_name(step)
        seen[name] = seen.get(name, 0) + 1
        named.append((name if seen[name] == 1 else f"{name}_{seen[name]}", step))
    return named


def hyper_fields(step: Transform | type[Transform]) -> tuple[str, ...]:
    """Names of the fields that are hyperparameters."""
    return step._hypers


def static_fields(step: Transform | type[Transform]) -> tuple[str, ...]:
    """Names of the fields that are structure: they never change and are compiled in."""
    return step._statics


def _domain(step: Transform, name: str) -> Domain:
    return step.domains.get(name) or domain_of(name)


def _part_name(part: Transform | Chain) -> str:
    return part.name if isinstance(part, Chain) else step_name(part)


def _part_hypers(part: Transform | Chain) -> dict[str, Hyper]:
    return part.hypers if isinstance(part, Chain) else {n: getattr(part, n) for n in hyper_fields(part)}


def _hyper_names(parts: tuple[Transform | Chain, ...]) -> dict[str, tuple[int, str]]:
    """Public name -> (part, its own name); a name that two parts share is qualified by the part's name."""
    own = [(i, name) for i, part in enumerate(parts) for name in _part_hypers(part)]
    names: dict[str, tuple[int, str]] = {}
    for i, name in own:
        shared = sum(n == name for _, n in own) > 1
        public = f"{_part_name(parts[i])}.{name}" if shared else name
        base, k = public, 1
        while public in names:
            k += 1
            public = f"{base}_{k}"
        names[public] = (i, name)
    return names
