"""The list of contracts, and ``check(method)``, which runs them all and reports."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from fallline.core.errors import unknown
from fallline.core.method import Method
from fallline.testing.harness import LAYOUTS, in_layout
from fallline.testing.promises import PROMISES

__all__ = ["CONTRACTS", "Contract", "Report", "Result", "check", "contract"]

Scope = Literal["each", "core", "layouts"]
"""What the outcome depends on: ``each`` layout by itself, the ``core`` around it (one layout tells), or the
comparison of ``layouts``, which the contract names itself."""


@dataclass(frozen=True)
class Contract:
    """A promise: its name, its sentence, and a check that raises AssertionError where a method breaks it."""

    name: str
    promise: str
    numbers: tuple[int, ...]
    scope: Scope
    body: Callable[[Method], None]

    @property
    def section(self) -> str:
        """The file it stands in: numerics, state, structure, hyperparameters, protocol."""
        return self.body.__module__.rpartition(".")[2]

    def check(self, method: Method, layout: str = "eager") -> None:
        """Raise AssertionError where the method breaks the promise in the given layout."""
        with in_layout(layout):
            self.body(method)


CONTRACTS: dict[str, Contract] = {}
"""All contracts by name; a report lists them by the number of their promise."""


def contract(*numbers: int, scope: Scope = "core") -> Callable[[Callable[[Method], None]], Callable[[Method], None]]:
    """Decorator: register a check for the numbered promises; its docstring is the promise it tests."""
    stray = [n for n in numbers if n not in PROMISES]
    assert not stray, f"there are no promises {stray}"

    def register(body: Callable[[Method], None]) -> Callable[[Method], None]:
        CONTRACTS[body.__name__] = Contract(body.__name__, (body.__doc__ or "").strip(), numbers, scope, body)
        return body

    return register


@dataclass(frozen=True)
class Result:
    """The outcome of one contract in one layout: kept, broken, or broken as the method declares (with its reason)."""

    contract: Contract
    error: str = ""
    declared: str = ""
    layout: str = "eager"

    @property
    def ok(self) -> bool:
        """Kept, or broken exactly as declared; a declared break that is kept is not ok: the declaration is stale."""
        return bool(self.error) == bool(self.declared)

    @property
    def mark(self) -> str:
        """The outcome in one word; what is wrong stands in capitals."""
        if self.declared:
            return "declared" if self.error else "STALE"
        return "BROKEN" if self.error else "kept"

    @property
    def detail(self) -> str:
        """What the mark means: the promise, the error, or the reason that the method declares."""
        if self.declared:
            return self.declared if self.error else f"declared as broken ({self.declared}), but it holds"
        return self.error or self.contract.promise

    def __str__(self) -> str:
        return f"{self.mark:8} {self.contract.name}: {self.detail}"


@dataclass(frozen=True)
class Report:
    """All results for one method; prints as a table with one column per layout."""

    method: Method
    results: tuple[Result, ...]
    layouts: tuple[str, ...] = ("eager",)

    @property
    def ok(self) -> bool:
        return all(result.ok for result in self.results)

    def __str__(self) -> str:
        kept = sum(r.ok for r in self.results)
        title = f"{self.method.name}: {kept} of {len(self.results)} contracts"
        if len(self.layouts) == 1:
            return "\n".join([title, *map(str, self.results)])
        rows: dict[str, list[Result]] = {}
        for result in self.results:
            rows.setdefault(result.contract.name, []).append(result)
        head = " ".join(f"{layout:8}" for layout in self.layouts) + "   contract ('=': all layouts agree)"
        return "\n".join([title, head, *(self._row(name, row) for name, row in rows.items())])

    def _row(self, name: str, row: Sequence[Result]) -> str:
        marks = [result.mark for result in row]
        agree = "=" if len(row) == len(self.layouts) and len(set(marks)) == 1 else " "
        cells = " ".join(f"{m:8}" for m in [*marks, *["-"] * (len(self.layouts) - len(row))])
        told = next((r for r in row if not r.ok), row[0])
        where = f"in {told.layout}: " if not told.ok and len(row) > 1 and agree == " " else ""
        return f"{cells} {agree} {name}: {where}{told.detail}"


def check(method: Method, *names: str, layouts: Sequence[str] = ("eager",)) -> Report:
    """Run all contracts (or those named) on a method in each layout and report; never raises for a broken contract.

    Contracts that compare layouts run once, in the first column.
    """
    importlib.import_module("fallline.testing.contracts")
    for name in names:
        if name not in CONTRACTS:
            raise unknown("contract", name, CONTRACTS)
    for layout in layouts:
        if layout not in LAYOUTS:
            raise unknown("layout", layout, LAYOUTS)
    results = []
    for entry in sorted(CONTRACTS.values(), key=lambda c: c.numbers or (len(PROMISES) + 1,)):
        if names and entry.name not in names:
            continue
        for layout in layouts if entry.scope != "layouts" else layouts[:1]:
            results.append(_outcome(entry, method, layout))
    return Report(method, tuple(results), tuple(layouts))


def _outcome(entry: Contract, method: Method, layout: str) -> Result:
    error = ""
    try:
        entry.check(method, layout)
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}".strip().partition("\n")[0]
    return Result(entry, error, method.xfail.get(entry.name, ""), layout)


importlib.import_module("fallline.testing.contracts")
