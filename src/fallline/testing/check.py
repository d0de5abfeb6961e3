"""The list of contracts, and ``check(method)``, which runs them all and reports."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from fallline.core.method import Method

__all__ = ["CONTRACTS", "Contract", "Report", "Result", "check", "contract"]


@dataclass(frozen=True)
class Contract:
    """A promise: its name, its sentence, and a check that raises AssertionError where a method breaks it."""

    name: str
    promise: str
    check: Callable[[Method], None]


CONTRACTS: dict[str, Contract] = {}
"""All contracts by name, in reading order."""


def contract(check: Callable[[Method], None]) -> Callable[[Method], None]:
    """Decorator: register a check; its docstring is the promise."""
    CONTRACTS[check.__name__] = Contract(check.__name__, (check.__doc__ or "").strip(), check)
    return check


@dataclass(frozen=True)
class Result:
    """The outcome of one contract: kept, broken, or broken as the method declares (with its reason)."""

    contract: Contract
    error: str = ""
    declared: str = ""

    @property
    def ok(self) -> bool:
        """Kept, or broken exactly as declared; a declared break that is kept is not ok: the declaration is stale."""
        return bool(self.error) == bool(self.declared)

    def __str__(self) -> str:
        mark = "kept    " if not self.error else "declared" if self.declared else "BROKEN  "
        detail = self.declared if self.error and self.declared else self.error
        if self.declared and not self.error:
            mark, detail = "STALE   ", f"declared as broken ({self.declared}), but it holds"
        return f"{mark} {self.contract.name}: {detail or self.contract.promise}"


@dataclass(frozen=True)
class Report:
    """All results for one method; prints as a table."""

    method: Method
    results: tuple[Result, ...]

    @property
    def ok(self) -> bool:
        return all(result.ok for result in self.results)

    def __str__(self) -> str:
        kept = sum(r.ok for r in self.results)
        return "\n".join([f"{self.method.name}: {kept} of {len(self.results)} contracts", *map(str, self.results)])


def check(method: Method, *names: str) -> Report:
    """Run all contracts (or those named) on a method and report; never raises for a broken contract."""
    importlib.import_module("fallline.testing.contracts")
    results = []
    for entry in CONTRACTS.values():
        if names and entry.name not in names:
            continue
        try:
            entry.check(method)
            error = ""
        except Exception as problem:
            error = f"{type(problem).__name__}: {problem}".strip().partition("\n")[0]
        results.append(Result(entry, error, method.xfail.get(entry.name, "")))
    return Report(method, tuple(results))


importlib.import_module("fallline.testing.contracts")
