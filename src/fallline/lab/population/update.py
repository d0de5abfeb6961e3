"""The update of all runs: one chain, every hyperparameter and step count a run's own.

Three ways, all of the same pure functions. ``Native``: the optimizer's own loops, one call for each run, its tensors where they lie
in the stack. ``Vectorised``: ``advance`` under vmap, for steps that look at shapes and where nothing compiles. ``Single``:
``advance`` run by run, for steps that vmap cannot take.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fallline.core.bundle import Plan, Table, plan
from fallline.core.execute import BUNDLE_FROM
from fallline.core.kernel import Segment, advance, measure, segments, usable
from fallline.core.storage import Storage
from fallline.core.transform import hyper_fields
from fallline.core.types import Reach
from fallline.lab.population.state import State

__all__ = ["Native", "Single", "Update", "Vectorised", "make_update"]


class Update(ABC):
    """Moves parameters and slots of a state, in place."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.chain = segments(state.hypers[0].chain(1).steps, Storage())
        self.counts = [sum(len(hyper_fields(s)) for _, s in segment.named) for segment in self.chain]
        self.firsts = [len(hyper_fields(s.named[0][1])) if s.named else 0 for s in self.chain]

    @abstractmethod
    def step(self, gradients: Mapping[str, Tensor], losses: Tensor, rows: Sequence[int]) -> None:
        """One step of these runs, whose ``taken`` already counts it; the others stay as they are."""

    def renewed(self) -> Update:
        """The same for a state that has lost runs."""
        return type(self)(self.state)

    def needs_total(self, k: int) -> bool:
        """Whether segment k begins with a GROUP step."""
        named = self.chain[k].named
        return bool(named) and named[0][1].reach == Reach.GROUP

    def parted(self, values: Sequence[Any]) -> list[Sequence[Any]]:
        """Hyperparameters of all steps, cut into those of the segments."""
        cut, begin = [], 0
        for count in self.counts:
            cut.append(values[begin : begin + count])
            begin += count
        return cut


class Native(Update):
    """One call of the optimizer's loops for each run and segment."""

    def __init__(self, state: State, how: Plan) -> None:
        super().__init__(state)
        self._plan = how
        names, params = list(state.params), state.params
        self._names = names
        dtype = next(iter(params.values())).dtype
        self._dtype = dtype
        self._u = {n: torch.empty_like(x) for n, x in params.items()} if len(self.chain) > 1 else {}
        self._tables = [Table([params[n][0].numel() for n in names]) for _ in state.taken]
        self._put("p", params)
        for key in next(iter(state.slots.values())):
            self._put(key, {n: state.slots[n][key] for n in names})
        if self._u:
            self._put("u", self._u)

    def renewed(self) -> Update:
        return Native(self.state, self._plan)

    def _put(self, key: str, stacks: Mapping[str, Tensor]) -> None:
        columns = []
        for name in self._names:
            x = stacks[name]
            start, stride = x.data_ptr(), x.stride(0) * x.element_size()
            columns.append((start, stride))
        for row, table in enumerate(self._tables):
            table.put(key, [start + row * stride for start, stride in columns])

    def step(self, gradients: Mapping[str, Tensor], losses: Tensor, rows: Sequence[int]) -> None:
        self._put("g", gradients)
        loss = losses.tolist()
        for row in rows:
            t, table = self.state.taken[row], self._tables[row]
            numbers: dict[str, Any] = {"t": t, "loss": loss[row]}
            parts = self.parted(self.state.hypers[row].at(t))
            for k, segment in enumerate(self.chain):
                finder, mover = self._plan[k]
                if finder is not None:
                    found = finder(table, numbers, parts[k][: self.firsts[k]])
                    found = torch.tensor(found, dtype=self._dtype).tolist()  # as the optimizer hands it on
                    numbers |= (
                        {"total": found[0]} if finder.loops.single else {f"total_{i}": x for i, x in enumerate(found)}
                    )
                if mover is not None and segment.named:
                    mover(table, numbers, parts[k])


class Vectorised(Update):
    """Every segment under vmap over runs, tensor by tensor."""

    def step(self, gradients: Mapping[str, Tensor], losses: Tensor, rows: Sequence[int]) -> None:
        for name, out in self.found(gradients, losses, rows).items():
            for key, value in out.items():
                (self.state.params[name] if key == "p" else self.state.slots[name][key]).copy_(value)

    def found(
        self, gradients: Mapping[str, Tensor], losses: Tensor, rows: Sequence[int]
    ) -> dict[str, dict[str, Tensor]]:
        """What a step writes, by parameter."""
        state = self.state
        device = losses.device
        t = torch.tensor([max(1, x) for x in state.taken], dtype=torch.float64, device=device)
        values = torch.tensor(
            [h.at(max(1, x)) for h, x in zip(state.hypers, state.taken, strict=True)],
            dtype=torch.float64,
            device=device,
        )
        ok = torch.zeros(len(state.taken), dtype=torch.bool)
        ok[list(rows)] = True
        ok = ok.to(device)
        numbers = {"t": t, "loss": losses, "ok": ok}
        parts = self.parted(values.unbind(1))
        held = {n: {"p": p, "g": gradients[n], **state.slots[n]} for n, p in state.params.items()}
        out: dict[str, dict[str, Tensor]] = {n: {} for n in held}
        for k, segment in enumerate(self.chain):
            if self.needs_total(k):
                terms = [
                    _measured(segment, segment.touched(a), numbers, parts[k][: self.firsts[k]]) for a in held.values()
                ]
                total = torch.stack(terms).sum(0)
                numbers |= (
                    {"total": total} if total.dim() == 1 else {f"total_{i}": x for i, x in enumerate(total.unbind(1))}
                )
            if not segment.named:
                continue
            for name, arrays in held.items():
                new = _advanced(segment, segment.touched(arrays), numbers, parts[k])
                arrays.update(new)
                out[name].update({key: x for key, x in new.items() if key != "u"})
        return out


class Single(Update):
    """Run by run, as the optimizer's eager layout does."""

    def step(self, gradients: Mapping[str, Tensor], losses: Tensor, rows: Sequence[int]) -> None:
        for row in rows:
            for name, out in self.found(gradients, losses, row).items():
                for key, value in out.items():
                    (self.state.params[name] if key == "p" else self.state.slots[name][key])[row].copy_(value)

    def found(self, gradients: Mapping[str, Tensor], losses: Tensor, row: int) -> dict[str, dict[str, Tensor]]:
        """What a step of one run writes, by parameter."""
        state = self.state
        t = state.taken[row]
        numbers: dict[str, Any] = {"t": t, "loss": losses[row]}
        held = {
            n: {"p": p[row], "g": gradients[n][row], **{k: x[row] for k, x in state.slots[n].items()}}
            for n, p in state.params.items()
        }
        out: dict[str, dict[str, Tensor]] = {n: {} for n in held}
        for k, segment in enumerate(segments(state.hypers[row].chain(t).steps, Storage())):
            if self.needs_total(k):
                total = torch.stack([measure(segment, a, numbers, False, False) for a in held.values()]).sum(0)
                numbers |= (
                    {"total": total} if total.dim() == 0 else {f"total_{i}": x for i, x in enumerate(total.unbind())}
                )
            if not segment.named:
                continue
            for name, arrays in held.items():
                new = advance(segment, segment.touched(arrays), numbers)
                arrays.update(new)
                out[name].update({key: x for key, x in new.items() if key != "u"})
        return out


def make_update(state: State, gradients: Mapping[str, Tensor], losses: Tensor, rows: Sequence[int]) -> Update:
    """The fastest way that can take these steps. ``taken`` counts the coming step; nothing is changed."""
    single = Single(state)
    numel = sum(x.numel() for x in state.params.values())
    if losses.device.type == "cpu" and numel >= BUNDLE_FROM and (how := _plan_of(single)) is not None:
        return Native(state, how)
    together = Vectorised(state)
    if not rows:
        return together
    try:
        ours, theirs = together.found(gradients, losses, rows), single.found(gradients, losses, rows[0])
    except Exception:  # a step that reads numbers back, or an operation that vmap has no rule for
        return single
    agree = all(_close(ours[n][k][rows[0]], x) for n, out in theirs.items() for k, x in out.items())
    return together if agree else single


def _plan_of(update: Update) -> Plan | None:
    """How the loops step these tensors; None where they cannot."""
    state, kinds = update.state, set()
    for name, stack in state.params.items():
        if stack[0].dim() == 0 or stack[0].numel() == 0:
            return None
        slots = {k: x[0] for k, x in state.slots[name].items()}
        if any(x.dim() > 0 and x.shape != stack.shape[1:] for x in slots.values()):
            return None
        found = {
            "p": (stack.dtype, False),
            "g": (stack.dtype, False),
            **{k: (x.dtype, x.dim() == 0) for k, x in slots.items()},
        }
        kinds.add(tuple(sorted(found.items(), key=str)))
    return plan(update.chain, dict(kinds.pop())) if len(kinds) == 1 and usable("cpu") else None


class _Lerp(TorchFunctionMode):
    """Weights of ``lerp`` in the dtype of what they weigh: under vmap a number has no dtype that gives way."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.lerp, torch.lerp) and len(args) == 3 and isinstance(args[2], Tensor):
            args = (*args[:2], args[2].to(args[0].dtype))
        return func(*args, **(kwargs or {}))


def _with(segment: Segment, values: Sequence[Tensor]) -> Segment:
    """The segment with these hyperparameters."""
    left = iter(values)
    named = tuple((key, dataclasses.replace(s, **{f: next(left) for f in hyper_fields(s)})) for key, s in segment.named)  # type: ignore[type-var]
    return Segment(named, segment.first, segment.last, segment.storage)


def _advanced(
    segment: Segment, arrays: dict[str, Tensor], numbers: dict[str, Tensor], hypers: Sequence[Tensor]
) -> dict[str, Tensor]:
    def one(arrays: dict[str, Tensor], numbers: dict[str, Tensor], hypers: list[Tensor]) -> dict[str, Tensor]:
        with _Lerp():
            return advance(_with(segment, hypers), arrays, numbers)

    return torch.vmap(one)(arrays, numbers, list(hypers))


def _measured(
    segment: Segment, arrays: dict[str, Tensor], numbers: dict[str, Tensor], hypers: Sequence[Tensor]
) -> Tensor:
    def one(arrays: dict[str, Tensor], numbers: dict[str, Tensor], hypers: list[Tensor]) -> Tensor:
        first = Segment(segment.named[:1], segment.first, segment.last, segment.storage)
        with _Lerp():
            return measure(_with(first, hypers), arrays, numbers, False, False)

    return torch.vmap(one)(arrays, numbers, list(hypers))


def _close(x: Tensor, y: Tensor) -> bool:
    if not x.is_floating_point():
        return torch.equal(x, y)
    tolerance = 1e-4 if x.dtype is torch.float32 else 1e-9
    return torch.allclose(
        x, y, rtol=tolerance, atol=tolerance * float(y.abs().max()) if y.numel() else 0.0, equal_nan=True
    )
