"""A method: a recipe (hyperparameters -> chain), the card of its paper, its claims; and the registry of all methods."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import torch

from fallline.core.claims import Check, Claim
from fallline.core.errors import InvalidTypeError, InvalidValueError, unknown
from fallline.core.hyper import Domain, check_hyper, domain_of
from fallline.core.interop import TorchState
from fallline.core.space import Range, Space
from fallline.core.transform import Chain
from fallline.core.types import Hyper, Reach, Schedule

__all__ = ["METHODS", "Card", "Claim", "Method", "method"]


@dataclass(frozen=True)
class Card:
    """Where a method comes from: the paper, the section with the equations, and what was ambiguous there."""

    title: str
    year: int
    arxiv: str = ""
    doi: str = ""
    reference: str = ""  # for works without either
    section: str = ""
    notes: str = ""

    @property
    def source(self) -> str:
        """One line to find the paper by: ``arXiv:1412.6980, algorithm 1``."""
        where = f"arXiv:{self.arxiv}" if self.arxiv else f"doi:{self.doi}" if self.doi else self.reference
        return ", ".join(filter(None, (where, self.section)))


class Method:
    """An optimisation method. Call it to get a chain: ``adamw(lr=3e-4)``.

    The recipe is evaluated again whenever a hyperparameter moves, so any quantity may be derived from any other. Arguments
    annotated ``Hyper`` are hyperparameters (numbers, 0-d tensors or schedules); all others are structural options.
    """

    def __init__(
        self,
        recipe: Callable[..., Chain],
        card: Card,
        label: str,
        space: Space,
        aliases: Mapping[str, Any],
        xfail: Mapping[str, str],
        torch_state: TorchState | None,
    ) -> None:
        self.recipe, self.card, self.label = recipe, card, label
        self.aliases, self.xfail, self.torch_state = dict(aliases), dict(xfail), torch_state
        self.name = recipe.__name__
        self.signature = inspect.signature(recipe)
        arguments = self.signature.parameters.values()
        self.hypers = tuple(a.name for a in arguments if a.annotation in (Hyper, "Hyper"))
        self.options = tuple(a.name for a in arguments if a.name not in self.hypers)
        self.defaults = {a.name: a.default for a in arguments}
        self.space: dict[str, Range] = dict(space)
        self.claims: list[Claim] = []
        self._domains: dict[str, Domain] | None = None
        self.doc = inspect.cleandoc(recipe.__doc__ or sys.modules[recipe.__module__].__doc__ or "")
        self.__doc__ = self.doc
        stray = [
            n
            for n in (*space, *(m for v in aliases.values() for m in ([v] if isinstance(v, str) else v)))
            if n not in self.hypers
        ]
        assert not stray, f"{self.name}: {stray} are not hyperparameters"

    @property
    def summary(self) -> str:
        """The idea in one sentence."""
        return self.doc.partition("\n")[0]

    @property
    def family(self) -> str:
        """The folder the method's file stands in: sgd, adaptive, sign, layerwise ..."""
        parts = self.recipe.__module__.split(".")
        return parts[-2] if len(parts) > 2 else "custom"

    @property
    def reach(self) -> Reach:
        """How far the default chain looks."""
        return self().reach

    def state_bytes(self, **values: Any) -> float:
        """Bytes of state per float32 parameter, counted on the slots of a 256 x 256 matrix."""
        like = torch.zeros(256, 256)
        bytes_held = 0
        for step in self(**values).steps:
            for name, init in step.slots.items():
                slot = init(step, like)
                copies = 1 + step.rows[name](step) if name in step.rows else 1
                bytes_held += copies * slot.numel() * slot.element_size()
        return bytes_held / like.numel()

    def __call__(self, *args: Any, **values: Any) -> Chain:
        """The chain with the given hyperparameters; raises on unknown names and on values outside their domain."""
        if len(args) > len(self.defaults):
            raise InvalidTypeError(
                f"{self.name}() got {len(args)} positional arguments. It takes at most {len(self.defaults)}: "
                f"{', '.join(self.defaults)}. Pass them by name."
            )
        positional = dict(zip(self.defaults, args, strict=False))
        twice = sorted(positional.keys() & values.keys())
        if twice:
            raise InvalidTypeError(
                f"{self.name}() got {twice[0]} twice, by position and by name. Expected once. Drop one."
            )
        given = {**positional, **values}
        self.check(given)
        return MethodChain(self, {**self.defaults, **given})

    def check(self, values: Mapping[str, Any]) -> None:
        """Raise unless every name is an argument of the recipe and every hyperparameter lies in its domain."""
        for name, value in values.items():
            if name not in self.defaults:
                raise unknown(f"hyperparameter of {self.name}", name, self.defaults)
            if name in self.hypers:
                check_hyper(self.name, name, value, self.domain(name))
            else:
                self._check_option(name, value)

    def _check_option(self, name: str, value: Any) -> None:
        default = self.defaults[name]
        if isinstance(default, bool):
            if not isinstance(value, bool):
                raise InvalidTypeError(f"{self.name} got {name}={value!r}. Expected True or False. Pass one of them.")
        elif isinstance(default, float):
            check_hyper(self.name, name, value)
        elif isinstance(default, str):
            choices = get_args(get_type_hints(self.recipe)[name])
            if value not in choices:
                raise unknown(f"{name} of {self.name}", str(value), choices)

    def domain(self, name: str) -> Domain:
        """The allowed values of a hyperparameter: as a step of the recipe declares, else by the name's meaning."""
        if self._domains is None:
            steps = self.recipe().steps
            self._domains = {
                n: next((s.domains[n] for s in steps if n in s.domains), domain_of(n)) for n in self.hypers
            }
        return self._domains[name]

    def claim(self, text: str, where: str) -> Callable[[Check], Check]:
        """Decorator: attach a claim of the paper with its check."""

        def attach(check: Check) -> Check:
            self.claims.append(Claim(text, where, check))
            return check

        return attach

    def __repr__(self) -> str:
        return f"<method {self.name}>"

    def __reduce__(self) -> tuple[Any, ...]:  # a method is a name; copies and pickles stay the registered object
        return _find, (self.recipe.__module__, self.name)

    def __deepcopy__(self, memo: Any) -> Method:
        return self


class MethodChain(Chain):
    """A chain made by a method's recipe; rebuilding evaluates the recipe again."""

    def __init__(self, source: Method, values: Mapping[str, Any]) -> None:
        self.method, self.values = source, dict(values)
        # Recipes do arithmetic, so they see numbers: a schedule stands in as its first value.
        self.parts = source.recipe(**{k: v(1) if isinstance(v, Schedule) else v for k, v in values.items()}).parts

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def hypers(self) -> dict[str, Hyper]:
        return {name: self.values[name] for name in self.method.hypers}

    @property
    def options(self) -> dict[str, Any]:
        return {name: self.values[name] for name in self.method.options}

    def domain(self, name: str) -> Domain:
        return self.method.domain(name)

    def check(self, values: Mapping[str, Any]) -> None:
        self.method.check(values)

    def rebuild(self, values: Mapping[str, Any]) -> MethodChain:
        self.check(values)
        return MethodChain(self.method, {**self.values, **values})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MethodChain) and self.method is other.method and self.values == other.values

    def __hash__(self) -> int:
        return hash((self.method.name, tuple(sorted(self.values.items()))))

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in self.values.items())})"


class Registry(Mapping[str, Method]):
    """Methods by name; a miss lists the nearest known names."""

    def __init__(self) -> None:
        self._methods: dict[str, Method] = {}

    def add(self, entry: Method) -> None:
        known = self._methods.get(entry.name)
        if known is not None and known.recipe.__module__ != entry.recipe.__module__:
            raise InvalidValueError(
                f"A method named {entry.name!r} is already registered by {known.recipe.__module__}. "
                f"Names must be unique. Rename the new one."
            )
        self._methods[entry.name] = entry

    def __getitem__(self, name: str) -> Method:
        if name not in self._methods:
            raise unknown("method", name, self._methods)
        return self._methods[name]

    def __contains__(self, name: object) -> bool:
        return name in self._methods

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._methods))

    def __len__(self) -> int:
        return len(self._methods)


METHODS = Registry()
"""All registered methods by name; ``import fallline.methods`` fills it with ours."""


def _find(module: str, name: str) -> Method:
    importlib.import_module(module)
    return METHODS[name]


def method(
    *,
    title: str,
    year: int,
    arxiv: str = "",
    doi: str = "",
    reference: str = "",
    section: str = "",
    notes: str = "",
    label: str = "",
    space: Space | None = None,
    aliases: Mapping[str, str | tuple[str, ...]] | None = None,
    xfail: Mapping[str, str] | None = None,
    torch_state: TorchState | None = None,
) -> Callable[[Callable[..., Chain]], Method]:
    """Decorator: register a recipe as a method.

    ``label`` names its drop-in class in ``fallline.optim``; ``aliases`` maps that class's argument names to the recipe's
    (``betas`` for ``b1, b2`` is implied); ``space`` holds the search ranges, most important hyperparameter first;
    ``xfail`` declares contracts the method cannot keep, each with its reason; ``torch_state`` maps the slots of the
    class of ``torch.optim`` that is called like ``label`` to ours, so that its checkpoints load.
    """
    card = Card(title, year, arxiv, doi, reference, section, notes)

    def register(recipe: Callable[..., Chain]) -> Method:
        entry = Method(
            recipe,
            card,
            label or recipe.__name__.title().replace("_", ""),
            space or {},
            aliases or {},
            xfail or {},
            torch_state,
        )
        METHODS.add(entry)
        return entry

    return register
