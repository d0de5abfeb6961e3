"""Every registered method keeps every contract; a new method is tested by being registered, a layout by being listed."""

import inspect

import pytest

import fallline
from fallline import METHODS
from fallline.core.execute import UNCOMPILED, compiler_available
from fallline.core.types import Reach
from fallline.testing import CONTRACTS, LAYOUTS, PROMISES
from fallline.testing.promises import ELSEWHERE


def plainest(methods):
    """Of methods that keep something and ask for no gradients elsewhere, the one with the fewest steps."""
    methods = [m for m in methods if not any(s.gradients for s in m().steps)]
    return min(methods, key=lambda m: (not any(s.slots for s in m().steps), len(m().steps), m.name)).name


REACHES = {m.reach for m in METHODS.values()} - {
    Reach.MATRIX
}  # whose kernels are compiled for every shape, for minutes
STANDS_FOR_ITS_REACH = {plainest(m for m in METHODS.values() if m.reach == reach) for reach in REACHES}


def layouts_of(name, contract):
    """(layout, slow): everything runs in eager, and in compiled layouts what can depend on them.

    There one method stands for its reach (the executor tells methods apart by little else), and all methods are compared
    with eager; ``make studies`` runs the rest.
    """
    if contract.scope != "each":
        return [(LAYOUTS[0], False)]
    return [(layout, layout != "eager" and name not in STANDS_FOR_ITS_REACH) for layout in LAYOUTS]


def cases():
    for name, method in METHODS.items():
        for contract in CONTRACTS.values():
            for layout, slow in layouts_of(name, contract):
                marks = [pytest.mark.xdist_group(name)]  # one worker compiles a method once
                if slow:
                    marks.append(pytest.mark.slow)
                if contract.name in method.xfail:
                    marks.append(pytest.mark.xfail(reason=method.xfail[contract.name], strict=True))
                compiled = contract.scope == "layouts" or layout not in UNCOMPILED
                if compiled and not compiler_available():
                    marks.append(pytest.mark.skip(reason="no C++ compiler on this machine"))
                where = "layouts" if contract.scope == "layouts" else layout
                yield pytest.param(method, contract, layout, id=f"{name}-{contract.name}-{where}", marks=marks)


@pytest.mark.parametrize(("method", "contract", "layout"), list(cases()))
def test_contract(method, contract, layout):
    contract.check(method, layout)


def test_eager_is_the_first_layout():
    assert LAYOUTS[0] == "eager"
    assert "auto" not in LAYOUTS


def test_a_method_declares_only_contracts_that_exist():
    for method in METHODS.values():
        assert set(method.xfail) <= set(CONTRACTS), method.name


def test_every_promise_is_tested_or_says_where():
    numbered = {n for contract in CONTRACTS.values() for n in contract.numbers}
    assert set(PROMISES) == set(range(1, 36))
    assert set(PROMISES) - numbered <= set(ELSEWHERE)


def test_drop_in_classes_take_the_optimizers_options():
    def options(signature):
        return {a.name: a.default for a in signature.parameters.values() if a.kind is a.KEYWORD_ONLY}

    agreed = {"maximize", "fuse", "nonfinite", "patience", "state_format", "rounding", "seed"}
    expected = options(inspect.signature(fallline.Optimizer.__init__))
    assert agreed <= set(expected)
    for entry in METHODS.values():
        assert options(inspect.signature(getattr(fallline.optim, entry.label))) == expected, entry.label
