"""Optimizer: a ``torch.optim.Optimizer`` that runs a chain.

``param_groups`` holds every hyperparameter by name, so torch's schedulers, GradScaler, Lightning and hand edits of
``group["lr"]`` work. State is named after the step and the slot (``adam.m``) and is created when the optimizer is built.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from operator import attrgetter, is_
from typing import Any, ClassVar, TypeAlias, cast

import torch
from torch import Tensor, nn

from fallline.core.errors import InvalidTypeError, InvalidValueError, unknown
from fallline.core.evaluate import RandomState, evaluate_parts
from fallline.core.execute import FUSE_MODES, Batch, Fuse, compiler_available, execute
from fallline.core.groups import groups
from fallline.core.guard import PATIENCE, Guard, Policy
from fallline.core.kernel import Segment, segments
from fallline.core.layout import Layout
from fallline.core.requests import Closure, Found, Given, ask, asks, explained, move, rows
from fallline.core.sharding import copied, create, is_dtensor
from fallline.core.spread import described
from fallline.core.storage import Rounding, Storage
from fallline.core.transform import Chain, Transform, static_fields
from fallline.core.types import Reach, Schedule, State

__all__ = ["Optimizer"]

Alias: TypeAlias = str | tuple[str, ...]

# Entries of a group that are not ours: names, and what torch's schedulers and weight averaging keep there.
_NOT_HYPERS = {"param_names", "name", "initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"}

# With map(), a third of the time of a loop; a step looks at every tensor several times.
_gradient, _memory, _is_none = attrgetter("grad"), attrgetter("layout"), partial(is_, None)

_TORCH_ONLY = {
    "foreach": "how steps are fused",
    "fused": "how steps are fused",
    "capturable": "CUDA graph capture",
    "differentiable": "gradients through the step",
}


class Optimizer(torch.optim.Optimizer):
    r"""Run a chain over parameters: ``p <- p - chain(g)``.

    Args:
        params: a model, an iterable of parameters, of (name, parameter) pairs, or of group dicts as in torch.
            A group may override any hyperparameter and may bring its own ``"chain"``.
        chain: a chain such as ``adamw(lr=3e-4)``, or, with a model, a dict from name patterns to chains.
        maximize: ascend instead of descend.
        fuse: ``"eager"`` (tensor by tensor, the reference), ``"leaf"`` (the same, compiled), ``"flat"`` (compiled, all
            tensors of a group together), ``"blocks"`` (together, without a compiler) or ``"auto"``: flat where there is enough
            to do and a compiler, else blocks.
        nonfinite: what to do with a step in which a gradient, or its square, is not finite. ``"skip"``: the whole step changes
            nothing and is counted in ``num_skipped``; ``"raise"``; ``"zero"``: those entries count as zero.
        patience: skipped steps in a row after which ``step`` raises, naming the parameter.
        state_format: ``"float32"``, ``"bfloat16"`` or ``"8bit"`` (blocks of 256 with a scale, in tensors of 4,096 elements and
            more; Dettmers et al. 2022, arXiv:2110.02861). Methods compute in float32 all the same.
        rounding: how bfloat16 and float16 parameters take small updates: ``"kahan"`` keeps what was rounded off in one more
            tensor of their dtype, ``"stochastic"`` is right on average, ``"nearest"`` loses them.
        seed: of the random numbers of rounding and of steps that draw some (``add_noise``); they depend on it, the parameter's
            name and the step, and on nothing else.

    Parameters may be DTensors (FSDP2, tensor parallel): they step as if they were whole, and their state is laid out over
    ranks as they are.

    Hyperparameters may be numbers, 0-d tensors or schedules of the group's step. A scheduled one is written into its
    group before each step; editing it by hand is an error, since the edit could not take effect.

    Raises:
        TypeError, ValueError: on unknown or invalid hyperparameters, complex parameters, sparse gradients, a forced
            ``fuse="leaf"`` where nothing can compile.

    Example:
        >>> import torch, fallline
        >>> from fallline.methods import adamw
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = fallline.Optimizer(model, adamw(lr=0.1))
        >>> model(torch.ones(2, 3)).square().mean().backward()
        >>> optimizer.step()
    """

    _aliases: ClassVar[
        Mapping[str, Alias]
    ] = {}  # group key -> hyperparameter name(s); drop-in classes use torch's names

    def __init__(
        self,
        params: Any,
        chain: Chain | Transform | Mapping[str, Chain],
        *,
        maximize: bool = False,
        fuse: Fuse = "auto",
        nonfinite: Policy = "skip",
        patience: int = PATIENCE,
        state_format: str = "float32",
        rounding: Rounding = "kahan",
        seed: int = 0,
    ) -> None:
        if fuse not in FUSE_MODES:
            raise unknown("fuse mode", str(fuse), FUSE_MODES)
        if fuse in ("leaf", "flat") and not compiler_available():
            raise InvalidValueError(
                f"fuse={fuse!r} was asked for, but no C++ compiler was found. Compiled steps need one (g++ or clang++). "
                f"Install it, or use fuse='auto'."
            )
        self._fuse: Fuse = fuse
        self._storage = Storage(state_format, rounding, seed)
        self._guard = Guard(nonfinite, patience)
        self._chains: list[Chain] = []
        self._resolved: dict[int, tuple[Any, list[Segment]]] = {}
        self._layouts: dict[int, Layout] = {}
        self._alone: dict[Tensor, Layout] = {}  # of parameters that step inside backward
        if isinstance(chain, Mapping):
            params = groups(params, chain)
            chain = next(iter(chain.values()))
        if isinstance(chain, Transform):
            chain = Chain([chain])
        if not isinstance(chain, Chain):
            raise InvalidTypeError(
                f"Optimizer got {chain!r} as its chain. Expected a chain such as adamw(lr=3e-4), or, with a model, "
                f"a dict from name patterns to chains. Call the method to make one."
            )
        if isinstance(params, nn.Module):
            params = params.named_parameters()
        self._default_chain = chain
        super().__init__(params, {"maximize": maximize})
        self.defaults.update(self._group_values(chain))  # schedulers look here for betas or momentum

    # -- groups -------------------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, as torch does; checks every name and value before anything changes."""
        group = dict(param_group)
        chain = group.pop("chain", self._default_chain)
        given = {k: v for k, v in group.items() if k not in {"params", "maximize", *_NOT_HYPERS}}
        chain = chain.rebuild(self._from_group_keys(chain, given))
        group = {k: v for k, v in group.items() if k not in given}
        group.update(self._group_values(chain), step=0, method=chain.name)
        defaults, self.defaults = self.defaults, {"maximize": self.defaults["maximize"]}
        try:
            super().add_param_group(
                group
            )  # torch would fill in the default chain's hyperparameters, whatever the chain
        finally:
            self.defaults = defaults
        members = self.param_groups[-1]["params"]
        try:
            if len({id(p) for p in members}) < len(members):
                raise InvalidValueError(
                    f"Group {len(self.param_groups) - 1} holds a parameter twice, which would step twice. Expected every "
                    f"parameter once. Pass model.parameters(), which lists tied parameters once."
                )
            for p in members:
                if p.is_complex():
                    raise InvalidValueError(
                        f"Optimizer got a complex parameter of shape {tuple(p.shape)}. Methods here are real. "
                        f"Optimise torch.view_as_real(p) instead."
                    )
            self._chains.append(chain)
            for p in members:
                if p.requires_grad:
                    self._create_state(p, len(self.param_groups) - 1)
        except BaseException:
            for p in self.param_groups.pop()["params"]:
                self.state.pop(p, None)
            del self._chains[len(self.param_groups) :]
            raise

    def _group_values(self, chain: Chain) -> dict[str, Any]:
        values = {k: v(1) if isinstance(v, Schedule) else v for k, v in {**chain.hypers, **chain.options}.items()}
        return self._to_group_keys(values)

    def _create_state(self, p: Tensor, index: int) -> None:
        chain = self._chains[index]
        if is_dtensor(p) and chain.needs - {"loss"}:
            raise InvalidValueError(
                f"{chain.name} got the DTensor parameter {self._name(p, index)!r}. It evaluates gradients at other points or keeps "
                f"them for every batch, which works on plain tensors only. Use DDP, or a method without."
            )
        self.state[p] = self._fresh_state(p, index)

    def _name(self, p: Tensor, index: int) -> str:
        """A parameter's name, or its place where it has none."""
        group = self.param_groups[index]
        place = next(i for i, q in enumerate(group["params"]) if q is p)
        return group["param_names"][place] if "param_names" in group else f"parameter {place} of group {index}"

    def _fresh_state(self, p: Tensor, index: int) -> State:
        step = torch.zeros((), dtype=torch.int64, device=p.device)
        return {"step": step, **create(self._storage, self._chains[index].steps, p, self._name(p, index))}

    @property
    def chains(self) -> tuple[Chain, ...]:
        """The chain of every group."""
        return tuple(self._chains)

    def current_chain(self, index: int = 0) -> Chain:
        """The chain of a group with the values that its hyperparameters have now, for whatever reasons about a step."""
        chain, group = self._chains[index], self.param_groups[index]
        keys = self._to_group_keys({**chain.hypers, **chain.options})
        return chain.rebuild(self._from_group_keys(chain, {key: group[key] for key in keys}))

    def decoded(self, p: Tensor, key: str, step: Transform) -> tuple[Tensor, State]:
        """A parameter and a step's slots for it, in compute precision, as the step's own functions see them."""
        arrays = {"p": p.detach(), **self.state[p]}
        slots = {s: self._storage.decode(f"{key}.{s}", arrays, s not in step.nonnegative) for s in step.slots}
        return self._storage.load(arrays), slots

    @property
    def num_skipped(self) -> int:
        """Steps that changed nothing because a gradient, or its square, was not finite."""
        return self._guard.num_skipped

    def _from_group_keys(self, chain: Chain, given: Mapping[str, Any]) -> dict[str, Any]:
        """Group entries -> hyperparameters and options of the chain: betas=(b1, b2) -> b1, b2."""
        values: dict[str, Any] = {}
        known = self._to_group_keys({**chain.hypers, **chain.options})
        for key, value in given.items():
            if key not in known:
                hint = (
                    f"fallline decides {_TORCH_ONLY[key]} itself (fuse=...); drop {key}." if key in _TORCH_ONLY else ""
                )
                raise unknown(f"hyperparameter of {chain.name}", key, known, hint)
            target = self._aliases.get(key, key)
            if isinstance(target, str):
                values[target] = value
                continue
            if not isinstance(value, tuple | list) or len(value) != len(target):
                raise InvalidTypeError(
                    f"{chain.name} got {key}={value!r}. Expected {len(target)} numbers ({', '.join(target)}). "
                    f"Pass a tuple."
                )
            values.update(zip(target, value, strict=True))
        return values

    def _to_group_keys(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Hyperparameters and options -> group entries: b1, b2 -> betas=(b1, b2)."""
        entries = dict(values)
        renamed = {}
        for key, target in self._aliases.items():
            names = (target,) if isinstance(target, str) else target
            if all(n in entries for n in names):
                taken = tuple(entries.pop(n) for n in names)
                renamed[key] = taken[0] if isinstance(target, str) else taken
        return {**entries, **renamed}

    # -- the step -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(
        self,
        closure: Closure | None = None,
        *,
        loss: Tensor | None = None,
        full: Closure | None = None,
        batch: int | None = None,
        parts: Sequence[Closure] | None = None,
    ) -> Any:
        """One step. Returns what the closure returned.

        Args:
            closure: zeroes the gradients, computes the loss, calls backward and returns the loss, as for torch's LBFGS. It runs
                once, or more often for methods that need the batch's gradient elsewhere, at the previous iterate for
                example; ``explain()`` says where. Afterwards parameters, ``.grad`` and torch's random state are as after
                the first call. Every call starts from the same random state (one dropout mask), and running statistics
                of batch normalisation see the first call only.
            loss: the loss, for methods that need it, when there is no closure.
            full: like ``closure``, over all data, for methods such as SVRG; it is called when they ask for it.
            batch: which batch of a fixed set this is, from 0, for methods such as SAGA.
            parts: instead of ``closure``, one like it for every equal part of the batch, for methods that look at how the parts'
                gradients differ. ``.grad`` is then their mean, and the mean of the losses is returned.
        """
        result, start, variance = None, None, None
        if parts is not None:
            result, variance = self._together(parts, closure)
        elif closure is not None:
            start = RandomState(self._parameters()) if asks(self._chains) else None
            with torch.enable_grad():
                result = closure()
        loss = result.detach() if isinstance(result, Tensor) else loss
        batches = [self._batch(i, group) for i, group in enumerate(self.param_groups)]
        active = [i for i, found in enumerate(batches) if found.units]
        given = Given(loss, closure, full, batch, parts, start, variance)
        for i in active:
            given.require(self._chains[i])
        units = [unit for found in batches for unit in found.units]
        try:
            asked = self._asked([(self.param_groups[i], batches[i]) for i in active], given)
            verdict = self._guard.look([*units, *(found.leaf for found in asked)]) if units else False
            if verdict is False:  # nothing to do, or a step that must change nothing
                self._hold_schedules()
                self._guard.complain()
                return result
            ok = verdict if isinstance(verdict, Tensor) else None
            kept = [pair for i in active for pair in rows(self._chains[i].name, batches[i], batch, self._storage)]
            for found in asked:
                found.fill(self._storage, ok)
            for row, slot in kept:
                move(slot, row, ok)
            self._execute([batches[i] for i in active], loss, ok)
            for row, slot in kept:
                move(row, slot, ok)
        finally:
            for unit in units:
                unit.release()
        for group in self.param_groups:
            group["step"] += 1
        return result

    def _execute(self, batches: Sequence[Batch], loss: Tensor | None, ok: Tensor | None) -> None:
        # A GROUP step sums over all tensors that run its chain, whatever group they are in and whatever their values.
        runs: dict[Any, list[Batch]] = {}
        for i, batch in enumerate(batches):
            joint = any(s.reach == Reach.GROUP for segment in batch.segments for _, s in segment.named)
            structure = tuple(segment.structure for segment in batch.segments)
            runs.setdefault(structure if joint else i, []).append(batch)
        for together in runs.values():
            execute(together, loss, ok)

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _asked(self, active: Sequence[tuple[dict[str, Any], Batch]], given: Given) -> list[Found]:
        """What the steps ask for; with policy "zero" at points that clean gradients lead to."""
        if (given.closure is None and given.full is None and given.parts is None) or not asks(self._chains):
            return []
        if self._guard.policy == "zero":
            self._guard.look([unit for _, found in active for unit in found.units])
        return ask(active, self._parameters(), self._storage, given)

    def _together(self, parts: Sequence[Closure], closure: Closure | None) -> tuple[Any, dict[int, Tensor]]:
        if closure is not None or not parts or not all(callable(part) for part in parts):
            seen = "both a closure and parts" if closure is not None else f"parts={parts!r}"
            raise InvalidValueError(
                f"step() got {seen}. Expected a list of closures, one for every part of the batch, and no closure besides. "
                f"Write optimizer.step(parts=[first, second])."
            )
        return evaluate_parts(parts, self._parameters())

    def _batch(self, index: int, group: dict[str, Any]) -> Batch:
        """What a group contributes to this step: its segments with their current values, its units with their gradients."""
        chain = self._chains[index]
        found = self._segments(index, group)
        present, gradients = group["params"], list(map(_gradient, group["params"]))
        if any(map(_is_none, gradients)):
            present = [p for p in present if p.grad is not None]
            gradients = list(map(_gradient, present))
        if any(layout is not torch.strided for layout in set(map(_memory, gradients))):
            p = next(p for p in present if p.grad.layout is not torch.strided)
            raise RuntimeError(
                f"{chain.name} got a sparse gradient for a parameter of shape {tuple(p.shape)}. It needs dense ones. "
                f"Build the embedding with sparse=False."
            )
        held = self._layout(index, present)
        held.give(gradients, group["maximize"])
        return Batch(found, held.units, held.compiled, flat=self._fuse != "eager", calls=group["step"] + 1)

    def _layout(self, index: int, present: list[Tensor]) -> Layout:
        """The layout of a group whose given parameters have gradients: the last one for as long as nothing moved."""
        held = self._layouts.get(index)
        if held is not None and held.fits(present, self.state):
            return held
        if held is not None:
            held.leave(present)
        for p in present:
            if not self.state[p]:  # frozen until now
                self._create_state(p, index)
        group = self.param_groups[index]
        names = dict(zip(map(id, group["params"]), group.get("param_names", ()), strict=False))
        chain = segments(self._chains[index].steps, self._storage)
        held = Layout(present, self.state, chain, self._fuse, [names.get(id(p), "") for p in present])
        self._layouts[index] = held
        return held

    def prepare(self) -> None:
        """Build now what the first step would build, so that no step takes longer than the others. On the CPU these are native
        loops; what torch compiles (MATRIX steps, 8-bit state) is still compiled at the first step."""
        for i, group in enumerate(self.param_groups):
            learning = [p for p in group["params"] if p.requires_grad]
            if learning:
                self._layout(i, learning)

    def explain(self) -> str:
        """How each group is run: method and values, layout, calls, bytes moved and held for each parameter."""
        lines = []
        for i, group in enumerate(self.param_groups):
            learning = [p for p in group["params"] if p.requires_grad]
            values = self._to_group_keys({**self._chains[i].hypers, **self._chains[i].options})
            shown = ", ".join(f"{key}={group[key]!r}" for key in values)
            lines.append(f"group {i}: {self._chains[i].name}({shown})")
            if learning:
                parted = segments(self._chains[i].steps, self._storage)
                held, calls = self._layout(i, learning), sum(bool(segment.named) for segment in parted)
                lines += [f"  {line}" for line in held.describe(calls)]
                lines += [f"  {line}" for line in described(parted, held.parts)]
                lines += [f"  {line}" for line in explained(self._chains[i].steps)]
                shapes = [tuple(p.shape) for p in learning]
                lines += [f"  {line}" for step in self.current_chain(i).steps for line in step.explain(shapes)]
            frozen = len(group["params"]) - len(learning)
            lines += [f"  frozen    {frozen} tensors"] * bool(frozen)
        return "\n".join(lines)

    # -- stepping inside backward -------------------------------------------------------------------------------------

    def step_in_backward(self) -> None:
        """From now on step every parameter as soon as its gradient is complete, and free the gradient at once.

        The gradients of a large model then never exist all together. ``step()`` finds nothing left to do. Each backward is
        a step, so gradients cannot be accumulated over several, and a gradient that is not finite holds back its own
        parameter only.

        Raises:
            ValueError: for chains that need all gradients before they can go on (a GROUP step), or the loss.
        """
        for chain in self._chains:
            if chain.reach == Reach.GROUP or chain.needs:
                why = "sums over all tensors" if chain.reach == Reach.GROUP else f"needs the {', '.join(chain.needs)}"
                raise InvalidValueError(
                    f"{chain.name} cannot step inside backward: it {why}, and there only one gradient is complete. Expected "
                    f"steps of reach element, tensor or matrix. Drop that step, or call step() after backward."
                )
        stepped: set[Tensor] = set()
        for i, group in enumerate(self.param_groups):
            for p in group["params"]:
                if p.requires_grad:
                    p.register_post_accumulate_grad_hook(lambda p, i=i: self._step_alone(p, i, stepped))

    @torch.no_grad()
    def _step_alone(self, p: Tensor, index: int, stepped: set[Tensor]) -> None:
        if p in stepped:  # another backward has begun
            stepped.clear()
            for group in self.param_groups:
                group["step"] += 1
        stepped.add(p)
        group = self.param_groups[index]
        found = self._segments(index, group, check=False)
        place = next(k for k, q in enumerate(group["params"]) if q is p)
        names = group.get("param_names")
        alone = self._alone.get(p)
        if alone is None or not alone.fits([p], {p: self.state[p]}):
            alone = Layout([p], {p: self.state[p]}, found, self._fuse, [names[place] if names else ""])
            self._alone[p] = alone
        alone.give([cast(Tensor, p.grad)], group["maximize"])
        p.grad = None
        if self._guard.look(alone.units) is not False:
            execute([Batch(found, alone.units, alone.compiled, self._fuse != "eager", group["step"] + 1)])
        for unit in alone.units:
            unit.release()
        self._guard.complain()

    def _segments(self, index: int, group: dict[str, Any], check: bool = True) -> list[Segment]:
        """The chain's segments with the group's current hyperparameters; rebuilt and validated only when one moved."""
        chain = self._chains[index]
        self._follow_schedule(chain, group, check)
        keys = self._to_group_keys({**chain.hypers, **chain.options})
        values = {key: group[key] for key in keys}
        stamp = tuple((id(v), v._version) if isinstance(v, Tensor) else v for v in values.values())
        cached = self._resolved.get(index)
        if cached is not None and cached[0] == stamp:
            return cached[1]
        steps = chain.rebuild(self._from_group_keys(chain, values)).steps
        if _structure(steps) != _structure(chain.steps):
            built = self._group_values(chain)
            changed = [f"{k}={v!r} (built with {built[k]!r})" for k, v in values.items() if v != built[k]]
            raise InvalidValueError(
                f"{chain.name} now has {', '.join(changed)}, which needs other state. Options, and whether momentum is "
                f"zero, are fixed at construction. Build a new optimizer."
            )
        found = segments(steps, self._storage)
        self._resolved[index] = (stamp, found)
        return found

    def preview(self) -> dict[str, Tensor]:
        """What ``step()`` would subtract from every parameter, given the gradients that are there: by name, or by place where there are
        no names. Nothing changes, neither parameters nor state; it costs a copy of both.

        Raises:
            ValueError: for chains that need more than gradients.
        """
        needs = sorted(frozenset().union(*(chain.needs for chain in self._chains)))
        if needs:
            raise InvalidValueError(
                f"preview() has gradients only, and this chain needs the {', '.join(needs)}. Expected steps on gradients alone. Copy the "
                f"model and the optimizer, and step the copies."
            )
        twin = copy.deepcopy(self)
        found: dict[str, Tensor] = {}
        pairs = [
            (name, p, q)
            for group, other in zip(self.param_groups, twin.param_groups, strict=True)
            for name, p, q in zip(
                group.get("param_names", [""] * len(group["params"])), group["params"], other["params"], strict=True
            )
        ]
        for _, p, q in pairs:
            q.grad = None if p.grad is None else p.grad.clone()
        twin.step()
        for place, (name, p, q) in enumerate(pairs):
            found[name or str(place)] = p.detach() - q.detach()
        return found

    def _hold_schedules(self) -> None:
        """After a step that did not happen, the groups show the values of the last one that did."""
        for chain, group in zip(self._chains, self.param_groups, strict=True):
            for name, schedule in chain.hypers.items():
                if isinstance(schedule, Schedule):
                    _put(group, *self._key_of(name), schedule(max(group["step"], 1)))

    def _follow_schedule(self, chain: Chain, group: dict[str, Any], check: bool) -> None:
        """Write the schedules' values of the coming step into the group, unless somebody edited them by hand."""
        for name, schedule in chain.hypers.items():
            if not isinstance(schedule, Schedule):
                continue
            key, slot = self._key_of(name)
            held = group[key] if slot is None else group[key][slot]
            written = schedule(max(group["step"], 1))
            if check and held != written:
                raise InvalidValueError(
                    f"group[{key!r}] holds {held!r}, but {name} of {chain.name} follows the schedule {schedule!r} "
                    f"({written!r} at this point), so the edit would be lost. Change the schedule, or pass a number as "
                    f"{name} to control it by hand or by a torch scheduler."
                )
            _put(group, key, slot, schedule(group["step"] + 1))

    def _key_of(self, name: str) -> tuple[str, int | None]:
        """Where a hyperparameter stands in a group: (key, position in the tuple or None)."""
        for key, target in self._aliases.items():
            if target == name:
                return key, None
            if isinstance(target, tuple) and name in target:
                return key, target.index(name)
        return name, None

    # -- saving and loading -------------------------------------------------------------------------------------------

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict()`` returned: everything is checked before anything changes, tensors are copied and
        keep their dtype (torch's own loader casts them to the parameter's), and names win over positions.

        Raises ValueError if groups, methods, parameters, slots or shapes differ.
        """
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = before(self, state_dict) or state_dict
        state_dict = self._translated(state_dict)
        moves = [
            move
            for i, (mine, saved) in enumerate(self._matched_groups(state_dict))
            for move in self._matched_states(i, mine, saved, state_dict["state"])
        ]
        for p, state in moves:
            self.state[p] = state
        for chain, mine, saved in zip(self._chains, self.param_groups, state_dict["param_groups"], strict=True):
            mine.update({k: v for k, v in saved.items() if k not in ("params", "param_names")})
            for name, schedule in chain.hypers.items():  # this optimizer's schedule goes on from the saved step
                if isinstance(schedule, Schedule):
                    _put(mine, *self._key_of(name), schedule(max(mine["step"], 1)))
        self._resolved.clear()
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def _translated(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint of another library in our words; drop-in classes know torch's."""
        return state_dict

    def _matched_groups(self, state_dict: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        saved = state_dict.get("param_groups") if isinstance(state_dict, dict) else None
        if saved is None or "state" not in state_dict:
            raise InvalidValueError(
                "This is not an optimizer's state_dict: it lacks 'state' or 'param_groups'. Expected what "
                "optimizer.state_dict() returned. Check which part of the checkpoint you pass."
            )
        if len(saved) != len(self.param_groups):
            raise InvalidValueError(
                f"The checkpoint has {len(saved)} parameter groups, this optimizer {len(self.param_groups)}. They must "
                f"agree. Build the optimizer with the same groups as when it was saved."
            )
        for i, (chain, mine, theirs) in enumerate(zip(self._chains, self.param_groups, saved, strict=True)):
            if theirs.get("method") != mine["method"]:
                raise InvalidValueError(
                    f"Group {i} of the checkpoint was saved by {theirs.get('method') or 'another library'}, this one runs "
                    f"{mine['method']}. They must agree. Build the optimizer with the method that saved it."
                )
            missing = [k for k in mine if k not in theirs and k not in _NOT_HYPERS]
            if missing:
                raise InvalidValueError(
                    f"Group {i} of the checkpoint lacks {', '.join(missing)}. Expected every hyperparameter of "
                    f"{chain.name}. It was saved by another version; add the entry by hand or start afresh."
                )
            if len(theirs["params"]) != len(mine["params"]):
                raise InvalidValueError(
                    f"Group {i} of the checkpoint has {len(theirs['params'])} parameters, this optimizer's has "
                    f"{len(mine['params'])}. They must agree. Build the model as it was when saved."
                )
            keys = self._to_group_keys({**chain.hypers, **chain.options})
            values = {k: theirs[k] for k in keys}
            if self._restructures(chain, values):
                alone = [k for k in keys if self._restructures(chain, {k: values[k]})] or [*keys]
                seen = ", ".join(f"{k}={values[k]!r} (here {mine[k]!r})" for k in alone)
                raise InvalidValueError(
                    f"Group {i} of the checkpoint has {seen}, which needs other state or steps. Options, and whether momentum "
                    f"is zero, must agree. Build the optimizer with the checkpoint's."
                )
        return list(zip(self.param_groups, saved, strict=True))

    def _restructures(self, chain: Chain, values: Mapping[str, Any]) -> bool:
        """Whether a chain with these group entries, which are validated, would have other state or steps."""
        return _structure(chain.rebuild(self._from_group_keys(chain, values)).steps) != _structure(chain.steps)

    def _matched_states(
        self, index: int, mine: dict[str, Any], saved: dict[str, Any], states: Mapping[Any, State]
    ) -> Iterable[tuple[Tensor, State]]:
        names = mine.get("param_names")
        moves: list[tuple[Tensor, State]] = []
        for j, (p, key) in enumerate(zip(mine["params"], self._matched_keys(index, mine, saved), strict=True)):
            label = names[j] if names is not None else f"parameter {j} of group {index}"
            if not states.get(key):  # frozen until the checkpoint was made
                moves.append((p, {}))
                continue
            moves.append((p, _copied(label, self._fresh_state(p, index), states[key])))
        return moves

    def _matched_keys(self, index: int, mine: dict[str, Any], saved: dict[str, Any]) -> list[Any]:
        """The checkpoint's keys for the parameters of a group: by name where both sides have names, else by position."""
        keys = list(saved["params"])
        names, theirs = mine.get("param_names"), saved.get("param_names")
        if names is not None and theirs is not None:
            if sorted(names) != sorted(theirs):
                stray = sorted(set(theirs) ^ set(names))
                raise InvalidValueError(
                    f"Group {index} of the checkpoint and of this optimizer differ in {', '.join(stray[:5])}. Parameter "
                    f"names must agree. Build the model as it was when saved."
                )
            keys = [keys[theirs.index(name)] for name in names]
        return keys

    def __getstate__(self) -> dict[str, Any]:
        return {
            **super().__getstate__(),
            "_chains": self._chains,
            "_default_chain": self._default_chain,
            "_fuse": self._fuse,
            "_storage": self._storage,
            "_guard": self._guard,
            "_resolved": {},
            "_layouts": {},
            "_alone": {},
        }


def _copied(label: str, fresh: State, saved: State) -> State:
    """Copies of the saved slots, on the device and in the memory format of freshly created ones."""
    if saved.keys() != fresh.keys():
        raise InvalidValueError(
            f"The checkpoint's state of {label} has slots {sorted(saved)}, this method has {sorted(fresh)}. They must "
            f"agree. Load it into the method that saved it."
        )
    for slot, value in saved.items():
        if isinstance(value, Tensor) and value.dtype != fresh[slot].dtype:
            raise InvalidValueError(
                f"The checkpoint's {slot} of {label} has dtype {value.dtype}. Expected {fresh[slot].dtype}. Build the model and "
                f"the optimizer (state_format, rounding) as they were when saved."
            )
        if not isinstance(value, Tensor) or value.shape != fresh[slot].shape:
            seen = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InvalidValueError(
                f"The checkpoint's {slot} of {label} has shape {seen}. Expected {tuple(fresh[slot].shape)}. Build the "
                f"model as it was when saved."
            )
    return {slot: copied(like, saved[slot]) for slot, like in fresh.items()}


def _put(group: dict[str, Any], key: str, slot: int | None, value: float) -> None:
    group[key] = value if slot is None else tuple(value if i == slot else v for i, v in enumerate(group[key]))


def _structure(steps: Iterable[Transform]) -> tuple[Any, ...]:
    return tuple((type(s), tuple(getattr(s, f) for f in static_fields(s))) for s in steps)
