"""Answering what steps ask for: before a step is taken, the closure is called where they say, and their slots are filled.

The optimizer calls ``ask`` when it knows the gradients, has its guard look at what was found, and then fills the slots; so a
gradient elsewhere that is not finite is a refused step like any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from fallline.core.errors import InvalidValueError
from fallline.core.evaluate import Elsewhere, RandomState
from fallline.core.execute import Batch
from fallline.core.gradients import FullGradient, GradientAt, HessianDiagonal, Request, Search, VarianceOfParts, always
from fallline.core.random import signs_like
from fallline.core.rounding import stream_key
from fallline.core.storage import Storage, compute_dtype
from fallline.core.transform import Chain, Transform, named_steps
from fallline.core.types import At, State
from fallline.core.units import Leaf

__all__ = ["Closure", "Found", "Given", "ask", "asks", "explained", "move", "probe", "rows"]

Closure: TypeAlias = Callable[[], Any]


@dataclass(frozen=True)
class Given:
    """What ``step()`` was given, and what came of it so far."""

    loss: Tensor | None = None
    closure: Closure | None = None
    full: Closure | None = None
    batch: int | None = None
    parts: Sequence[Closure] | None = None
    start: RandomState | None = None  # before the first call
    variance: Mapping[int, Tensor] | None = None  # between the parts' gradients, by parameter

    def require(self, chain: Chain) -> None:
        """Raise, with the lines to write, unless this is all that a chain needs."""
        for need in sorted(chain.needs):
            if getattr(self, need) is None:
                what, expected, code = _NEEDS[need]
                raise RuntimeError(
                    f"{chain.name} needs {what} at every step and got none. Expected {expected}. Write:\n    {code}"
                )


_CLOSURE = "def closure(): optimizer.zero_grad(); loss = criterion(model(x), y); loss.backward(); return loss\n    optimizer.step(closure)"

_NEEDS = {  # need -> (what it is, what is expected, the lines to write)
    "loss": ("the loss", "a closure or loss=", "loss.backward()\n    optimizer.step(loss=loss.detach())"),
    "closure": (
        "the batch's gradient at another point, or its loss there,",
        "a closure that zeroes gradients, computes the loss, calls backward and returns the loss",
        _CLOSURE,
    ),
    "full": (
        "the gradient of all data, when it asks for it,",
        "a second closure, over all data, as full=",
        "def full(): optimizer.zero_grad(); loss = criterion(model(all_x), all_y); loss.backward(); return loss\n"
        "    optimizer.step(closure, full=full)",
    ),
    "parts": (
        "the gradients of the batch's parts",
        "a list of closures, one for every equal part of the batch, as parts=",
        "def part(x, y): loss = criterion(model(x), y); loss.backward(); return loss\n"
        "    optimizer.step(parts=[lambda x=x, y=y: part(x, y) for x, y in zip(xs.chunk(8), ys.chunk(8))])",
    ),
    "batch": (
        "the number of the batch",
        "the batch's place, from 0, in a fixed set of batches, as batch=",
        "loss.backward()\n    optimizer.step(batch=i)  # the i-th of the batches, as in: for i, (x, y) in enumerate(batches)",
    ),
}


@dataclass(frozen=True)
class Found:
    """What was found for a slot of a parameter: a leaf that has it as its gradient, so that the guard can look at it."""

    leaf: Leaf
    slot: str
    signed: bool

    def fill(self, storage: Storage, ok: Tensor | None) -> None:
        """Write it into its slot."""
        value = self.leaf.g.to(compute_dtype(self.leaf.whole.dtype))
        for part, new in storage.put(self.slot, value, dict(self.leaf.state), self.signed).items():
            move(self.leaf.state[part], new, ok)


@dataclass(frozen=True)
class _Member:
    """One parameter of those for which a step asks for something."""

    group: Mapping[str, Any]
    leaf: Leaf
    key: str
    step: Transform
    request: Request
    t: int  # the step that is coming

    def slots(self, storage: Storage) -> State:
        """The step's slots in compute precision."""
        arrays = {"p": self.leaf.whole.detach(), **self.leaf.state}
        return {s: storage.decode(f"{self.key}.{s}", arrays, s not in self.step.nonnegative) for s in self.step.slots}

    def at(self, storage: Storage, loss: Tensor | None) -> At:
        """Where the parameter stands."""
        p = storage.load({"p": self.leaf.whole.detach(), **self.leaf.state})
        return At(p, self.leaf.g.to(p.dtype), self.t, loss)


def asks(chains: Iterable[Chain]) -> bool:
    """Whether any step asks for anything."""
    return any(step.gradients for chain in chains for step in chain.steps)


def ask(
    active: Sequence[tuple[Mapping[str, Any], Batch]], params: Sequence[Tensor], storage: Storage, given: Given
) -> list[Found]:
    """What the requests of the steps of all groups find; parameters and gradients are afterwards what they were.

    Requests of one name in several groups share a call, in which all their parameters move together.
    """
    jobs: dict[tuple[str, str], list[_Member]] = {}
    for group, batch in active:
        for member in _members(group, batch):
            slot = next(s for s, request in member.step.gradients.items() if request is member.request)
            jobs.setdefault((f"{member.key}.{slot}", member.request.needs), []).append(member)
    found: list[Found] = []
    latest: dict[int, State] = {}  # what this step has found for a parameter so far
    with ExitStack() as exits:
        elsewhere: Elsewhere | None = None
        for (slot, need), members in jobs.items():
            if need != "parts" and elsewhere is None:
                elsewhere = exits.enter_context(Elsewhere(params, given.start or RandomState(params)))
            ats = [m.at(storage, given.loss) for m in members]
            values = _answered(members, ats, params, storage, given, elsewhere, latest)
            name = slot.rpartition(".")[2]
            for m, at, value in zip(members, ats, values, strict=True):
                other = Leaf(m.leaf.whole, m.leaf.state, m.leaf.name, m.leaf.place)
                ascend = m.group["maximize"] and isinstance(m.request, GradientAt | FullGradient | HessianDiagonal)
                other.give([torch.zeros_like(m.leaf.whole) if value is None else value], ascend)
                latest.setdefault(id(m.leaf.whole), {})[name] = other.g.to(at.g.dtype)
                found.append(Found(other, slot, name not in m.step.nonnegative))
    return found


def _members(group: Mapping[str, Any], batch: Batch) -> Iterator[_Member]:
    """Every parameter of a group with every request of its chain that is due."""
    requests = [
        (key, step, r) for segment in batch.segments for key, step in segment.named for r in step.gradients.values()
    ]
    for key, step, request in requests:
        for leaf in (leaf for unit in batch.units for leaf in unit.each()):
            count = leaf.state["step"]  # on a device, where reading it would stall, the group's stands for it
            t = (int(count) if count.device.type == "cpu" else int(group["step"])) + 1
            if isinstance(request, Search) or request.due(step, t):
                yield _Member(group, leaf, key, step, request, t)


def _answered(
    members: Sequence[_Member],
    ats: Sequence[At],
    params: Sequence[Tensor],
    storage: Storage,
    given: Given,
    elsewhere: Elsewhere | None,
    latest: Mapping[int, State],
) -> list[Tensor | None]:
    """What one request finds for each of its parameters; None for a gradient that did not arrive."""
    request = members[0].request
    if isinstance(request, VarianceOfParts):
        assert given.variance is not None
        return [given.variance[id(m.leaf.whole)] for m in members]
    assert elsewhere is not None
    if isinstance(request, Search):
        return [*_searched(members, ats, storage, given, elsewhere)]
    points = []
    if isinstance(request, HessianDiagonal):
        assert given.closure is not None
        places = {id(p): i for i, p in enumerate(params)}
        slot = next(s for s, r in members[0].step.gradients.items() if r is request)
        signs = [
            probe(m.leaf.whole, storage.seed, m.leaf.name or f"parameter {places[id(m.leaf.whole)]}", slot, m.t)
            for m in members
        ]
        found = elsewhere.hessian_times(given.closure, [(m.leaf.whole, z) for m, z in zip(members, signs, strict=True)])
        return [z.to(h.dtype) * h for z, (_, h) in zip(signs, found, strict=True)]
    if isinstance(request, GradientAt):
        for m, at in zip(members, ats, strict=True):
            slots = {**m.slots(storage), **latest.get(id(m.leaf.whole), {})}
            points.append((m.leaf.whole, cast(GradientAt, m.request).point(m.step, at, **slots)))
    closure = given.full if isinstance(request, FullGradient) else given.closure
    assert closure is not None
    _, gradients = elsewhere.call(closure, points)
    by_parameter = {id(p): g for p, g in zip(params, gradients, strict=True)}
    return [by_parameter[id(m.leaf.whole)] for m in members]


def probe(p: Tensor, seed: int, name: str, slot: str, t: int) -> Tensor:
    """The random signs of a parameter with which the diagonal of a Hessian is estimated at its step t."""
    return signs_like(p.detach(), stream_key(seed, f"{name}:{slot}"), t)


def _searched(
    members: Sequence[_Member], ats: Sequence[At], storage: Storage, given: Given, elsewhere: Elsewhere
) -> list[Tensor]:
    """The number on which a search over the losses at trial points ends, for every parameter."""
    first, request, closure = members[0], cast(Search, members[0].request), given.closure
    slot = next(s for s, r in first.step.gradients.items() if r is request)
    sign = -1.0 if first.group["maximize"] else 1.0
    if given.loss is None:
        raise RuntimeError(
            f"{first.group['method']} searches along the loss, and the closure returned none. Expected a tensor. Write:\n    {_CLOSURE}"
        )
    assert closure is not None

    def loss_at(x: float) -> float:
        points = [(m.leaf.whole, request.point(m.step, at, x)) for m, at in zip(members, ats, strict=True)]
        return sign * float(elsewhere.call(closure, points)[0])

    total = sum(float(m.step.measure(at.g, at, **m.slots(storage))) for m, at in zip(members, ats, strict=True))
    before = float(first.leaf.state[f"{first.key}.{slot}"])
    if math.isfinite(total):  # else the step will be refused
        before = request.run(first.step, before, sign * float(given.loss), total, loss_at)
    return [torch.full_like(m.leaf.state[f"{m.key}.{slot}"], before) for m in members]


def rows(name: str, found: Batch, batch: int | None, storage: Storage) -> Iterator[tuple[Tensor, Tensor]]:
    """(this batch's row, the slot that stands for it during the step) of every slot that is kept for every batch."""
    for key, step in (pair for segment in found.segments for pair in segment.named):
        for slot, number in step.rows.items():
            count = number(step)
            if isinstance(batch, bool) or not isinstance(batch, int) or not 0 <= batch < count:
                raise InvalidValueError(
                    f"{name} got batch={batch!r}. Expected a whole number from 0 to {count - 1}, since it keeps {count} "
                    f"batches. Number the batches from 0, or build it with num_batches= as many as there are."
                )
            for leaf in (leaf for unit in found.units for leaf in unit.each()):
                for part in storage.parts(f"{key}.{slot}"):
                    if part in leaf.state:
                        yield leaf.state[f"{part}.rows"][batch], leaf.state[part]


def move(to: Tensor, value: Tensor, ok: Tensor | None) -> None:
    """Copy, where the flag says so."""
    to.copy_(value if ok is None else torch.where(ok, value, to))


def explained(steps: Iterable[Transform]) -> list[str]:
    """What the steps ask for, in words."""
    lines = []
    for key, step in named_steps(steps):
        for slot, request in step.gradients.items():
            often = "at every step" if getattr(request, "due", always) is always else "at the steps that are due"
            lines.append(f"asks      for {request.what}, {often}, and keeps it as {key}.{slot}")
        for slot, number in step.rows.items():
            lines.append(f"keeps     {key}.{slot} for each of {number(step)} batches")
    return lines
