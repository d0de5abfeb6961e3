"""Drop-in optimizers, one class per method, made from the registry: ``fallline.optim.AdamW(model.parameters(), lr=3e-4)``.

Argument names are torch's where torch has the method (``betas``, ``momentum``, ``alpha`` ...), and so is the arithmetic.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import fallline.methods  # noqa: F401 (fills the registry)
from fallline.core.errors import InvalidTypeError, unknown
from fallline.core.method import METHODS, Method
from fallline.core.optimizer import Alias, Optimizer

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
