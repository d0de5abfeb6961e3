"""Solvers as named methods: a declaration beside each, with what METHODS' entries have, so that studies tune and run them by name.

A step method is a solver, whose direction takes the gradient's place, and a chain that steps along it: momentum, then the learning rate.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import torch
from torch import nn

from fallline.core.claims import CLAIMS, Claim
from fallline.core.errors import InvalidTypeError
from fallline.core.hyper import Domain
from fallline.core.method import Card, Method, Registry
from fallline.core.oracle import Oracle, of_loss
from fallline.core.space import Space
from fallline.core.transform import Chain, chain
from fallline.core.types import Hyper, Reach, Schedule
from fallline.second_order.base import Direction
from fallline.transforms import descend
from fallline.transforms import momentum as with_momentum

__all__ = ["STEP_METHODS", "Make", "StepMethod", "number", "step_method", "steps"]

Make = Callable[[Oracle, int], Direction]
"""(the oracle of a model, a seed) -> the solver around it."""

STEP_METHODS = Registry()
"""All step methods by name, beside METHODS, whose contracts are those of pure functions of one tensor."""

DOMAINS = {
    "damping": Domain("(0, inf)"),
    "smoothness": Domain("(0, inf)"),
    "time": Domain("(0, inf)"),
    "decay": Domain("[0, 1)"),
    "rate": Domain("(0, 1]"),
    "alpha": Domain("[0, 1)"),
    "forget": Domain("(0, 1]"),
    "weight": Domain("(0, inf)"),
    "gamma": Domain("(0, inf)"),
}


class StepMethod(Method):
    """A solver with the chain that steps along its direction. Called, it gives the chain; ``solver`` gives the oracle."""

    def __init__(
        self,
        named: Callable[..., Any],
        recipe: Callable[..., tuple[Chain, Make]],
        card: Card,
        label: str,
        space: Space,
        small: Mapping[str, Any],
    ) -> None:
        @wraps(recipe)
        def of_chain(**values: Any) -> Chain:
            return recipe(**values)[0]

        of_chain.__name__, of_chain.__doc__ = named.__name__, inspect.getdoc(named)
        super().__init__(of_chain, card, label, space, {}, {}, None)
        self._recipe, self._small = recipe, dict(small)

    def solver(self, oracle: Oracle, seed: int = 0, **values: Any) -> Direction:
        """The oracle whose ``backward`` leaves the direction in ``.grad``; raises on unknown names and on values outside their domain."""
        self.check(values)
        return self._recipe(**{**self.defaults, **values})[1](oracle, seed)

    @property
    def family(self) -> str:
        return "second_order"

    @property
    def reach(self) -> Reach:
        """A direction depends on the whole model."""
        return Reach.GROUP

    def domain(self, name: str) -> Domain:
        return DOMAINS.get(name) or super().domain(name)

    def state_bytes(self, **values: Any) -> float:
        """Bytes of state per float32 parameter, of the solver and of the chain, after some steps on a matrix of 32 x 32."""
        layer = nn.Linear(32, 32, bias=False)
        made = torch.Generator().manual_seed(0)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(32, 32, generator=made) / 32)
        batch = (torch.randn(4, 32, generator=made), torch.randn(4, 32, generator=made))
        oracle = of_loss(layer, lambda model, b: (model(b[0]) - b[1]).square().mean())
        solver = self.solver(oracle, **{**self._small, **values})
        for _ in range(3):
            d = solver.value_and_grad(solver.params, batch, statistics=True)[1]
            with torch.no_grad():
                layer.weight.sub_(d["weight"], alpha=0.1)
        held = sum(x.numel() * x.element_size() for x in solver.state_dict().values() if x.dim())
        return super().state_bytes(**values) + held / layer.weight.numel()

    @property
    def claims(self) -> list[Claim]:
        """Those of the solver, which stand with it and in ``claims.py``."""
        importlib.import_module("fallline.second_order.claims")
        return [c for c in CLAIMS["second_order"] if c.subject == self.name]

    @claims.setter
    def claims(self, value: list[Claim]) -> None:
        """Method begins with none."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _find, (self.name,)


def _find(name: str) -> Method:
    return STEP_METHODS[name]


def step_method(
    named: Callable[..., Any],
    *,
    label: str,
    title: str,
    year: int,
    arxiv: str = "",
    doi: str = "",
    reference: str = "",
    section: str = "",
    notes: str = "",
    space: Space,
    small: Mapping[str, Any] | None = None,
) -> Callable[[Callable[..., tuple[Chain, Make]]], StepMethod]:
    """Decorator: register a recipe, hyperparameters -> (chain, maker of the solver), under the name and docstring of ``named``.

    ``space`` is as for ``method``; ``small`` holds options for the small model on which state is counted.
    """
    card = Card(title, year, arxiv, doi, reference, section, notes)

    def register(recipe: Callable[..., tuple[Chain, Make]]) -> StepMethod:
        entry = StepMethod(named, recipe, card, label, space, small or {})
        STEP_METHODS.add(entry)
        return entry

    return register


def steps(lr: Hyper, momentum: Hyper) -> Chain:
    """The chain of all step methods: heavy-ball momentum, then the learning rate."""
    return chain(with_momentum(momentum), descend(lr))


def number(name: str, value: Hyper) -> float:
    """A hyperparameter of a solver, which is made once and follows no schedule."""
    if isinstance(value, Schedule):
        raise InvalidTypeError(
            f"A solver got {name} as a schedule. Expected a number: only the learning rate follows one. Set solver.damping between steps."
        )
    return float(value)
