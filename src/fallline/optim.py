"""Drop-in optimizers, one class per method, made from the registry: ``fallline.optim.AdamW(model.parameters(), lr=3e-4)``.

Argument names are torch's where torch has the method (``betas``, ``momentum``, ``alpha`` ...), and so is the arithmetic.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import fallline.methods  # noqa: F401 (fills the registry)
from fallline.core.errors import InvalidTypeError, InvalidValueError, unknown
from fallline.core.interop import Kept, group_from_torch, group_to_torch, is_torchs, state_from_torch, state_to_torch
from fallline.core.method import METHODS, Method
from fallline.core.optimizer import Alias, Optimizer
from fallline.core.transform import named_steps
from fallline.core.types import Schedule

_COUNTERPARTS = [entry.label for entry in METHODS.values() if entry.torch_state is not None]

__all__ = [entry.label for entry in METHODS.values()]


RUNNING = {
    a.name: a
    for a in inspect.signature(Optimizer.__init__).parameters.values()
    if a.kind is inspect.Parameter.KEYWORD_ONLY
}
"""How any method is run: maximize, fuse, nonfinite ... as ``Optimizer`` takes them."""


class DropIn(Optimizer):
    """Base of the generated classes: binds torch's argument names to a method's recipe."""

    method: ClassVar[Method]
    __signature__: ClassVar[inspect.Signature]

    def __init__(self, params: Any, *args: Any, **values: Any) -> None:
        names = [n for n in self.__signature__.parameters if n != "params" and n not in RUNNING]
        if len(args) > len(names):
            raise InvalidTypeError(
                f"{type(self).__name__} got {len(args)} positional hyperparameters. It takes at most {len(names)}: "
                f"{', '.join(names)}. Pass them by name."
            )
        running = {n: values.pop(n) for n in RUNNING if n in values}
        given = {**dict(zip(names, args, strict=False)), **values}
        chain = self.method().rebuild(self._from_group_keys(self.method(), given))
        super().__init__(params, chain, **running)

    def torch_state_dict(self) -> dict[str, Any]:
        """What the class of ``torch.optim`` with this name loads, to go on from here: copies, in the parameters' dtype.

        What rounding has kept from half-precision parameters stays behind, and compact state is decoded.
        Raises TypeError where torch has no such class, ValueError where a group has what torch's class does not.
        """
        label, table = self.method.label, self.method.torch_state
        if table is None:
            raise InvalidTypeError(
                f"{label} has no counterpart in torch.optim. Expected one of {', '.join(_COUNTERPARTS)}. Save it with "
                f"state_dict() or fallline.save()."
            )
        packed = self.state_dict()
        groups, states = [], {}
        for i, (group, saved) in enumerate(zip(self.param_groups, packed["param_groups"], strict=True)):
            self._require_own_method(i)
            options = {name: self.method.defaults[name] for name in self.method.options}
            groups.append(group_to_torch(label, f"Group {i}", saved, options))
            for p, key in zip(group["params"], saved["params"], strict=True):
                state = self.state.get(p) or self._fresh_state(p, i)
                found = state_to_torch(state, table, p.dtype, group, self._kept(i))
                states.update({key: found} if found else {})
        return {"state": states, "param_groups": groups}

    def _translated(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        if self.method.torch_state is None or not is_torchs(state_dict):
            return state_dict
        groups = [self._group_from_torch(i, saved) for i, saved in enumerate(state_dict["param_groups"])]
        states: dict[Any, Any] = {}
        for i, (mine, group) in enumerate(self._matched_groups({"state": {}, "param_groups": groups})):
            kept = self._kept(i)
            for p, key in zip(mine["params"], self._matched_keys(i, mine, group), strict=True):
                fresh, saved = self._fresh_state(p, i), state_dict["state"].get(key) or {}
                states[key] = state_from_torch(self._name(p, i), saved, self.method.torch_state, fresh, group, kept)
            if "step" not in state_dict["param_groups"][i]:
                group["step"] = max((int(states[k]["step"]) for k in group["params"] if states[k]), default=0)
        return {"state": states, "param_groups": groups}

    def _group_from_torch(self, index: int, saved: dict[str, Any]) -> dict[str, Any]:
        label, table = self.method.label, self.method.torch_state
        group = {"method": self.method.name, "step": 1}  # where none was counted: past SGD's first, which is undampened
        if index >= len(self.param_groups):  # to be refused for its number
            return group
        self._require_own_method(index)
        wanted = self.param_groups[index].keys() - {"params", "param_names", "step", "method"}
        group.update(group_from_torch(label, f"Group {index}", saved, wanted))
        for name in self.method.options:  # what torch does not know was at its default
            group.setdefault(name, self.method.defaults[name])
        scheduled = any(isinstance(v, Schedule) for v in self._chains[index].hypers.values())
        if scheduled and "step" not in table and "step" not in saved:
            raise InvalidValueError(
                f"torch.optim.{label} does not count its steps, and group {index} here follows a schedule. Expected the number "
                f"of steps taken as the entry 'step' of the checkpoint's group. Add it, or pass numbers."
            )
        return group

    def _require_own_method(self, index: int) -> None:
        name = self.param_groups[index]["method"]
        if name != self.method.name:
            raise InvalidValueError(
                f"Group {index} runs {name}, not {self.method.name}, so torch.optim.{self.method.label} has no counterpart to it. "
                f"Expected groups without chains of their own. Use state_dict() of both sides' optimizers."
            )

    def _kept(self, index: int) -> Kept:
        steps = named_steps(self._chains[index].steps)
        signed = {f"{key}.{slot}": slot not in step.nonnegative for key, step in steps for slot in step.slots}
        return Kept(self._storage, signed)


def aliases_of(entry: Method) -> dict[str, Alias]:
    """torch's argument names -> the recipe's; two decay rates are torch's ``betas``."""
    implied: Mapping[str, Alias] = (
        {"betas": ("b1", "b2")} if {"b1", "b2"} <= set(entry.hypers) and not entry.aliases else {}
    )
    return {**implied, **entry.aliases}


def _signature(entry: Method) -> inspect.Signature:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("params", kind)]
    hidden = {
        n: key for key, target in aliases_of(entry).items() for n in ((target,) if isinstance(target, str) else target)
    }
    for name, default in entry.defaults.items():
        key = hidden.get(name, name)
        if any(p.name == key for p in parameters):
            continue
        target = aliases_of(entry).get(key, key)
        default = default if isinstance(target, str) else tuple(entry.defaults[n] for n in target)
        parameters.append(inspect.Parameter(key, kind, default=default))
    return inspect.Signature([*parameters, *RUNNING.values()])


def _drop_in(entry: Method) -> type[DropIn]:
    namespace = {
        "method": entry,
        "_aliases": aliases_of(entry),
        "__signature__": _signature(entry),
        "__doc__": f"{entry.doc}\n\nDrop-in class of the method ``{entry.name}`` ({entry.card.source}).",
        "__module__": __name__,
    }
    return type(entry.label, (DropIn,), namespace)


for _entry in METHODS.values():
    globals()[_entry.label] = _drop_in(_entry)


def __getattr__(name: str) -> Any:
    raise AttributeError(str(unknown("optimizer class", name, __all__)))
