"""Every registered method keeps every contract; a new method is tested by being registered, a layout by being listed."""

import inspect

import pytest

import fallline
from fallline import METHODS
from fallline.core.execute import compiler_available
from fallline.testing import CONTRACTS, LAYOUTS, PROMISES
from fallline.testing.promises import ELSEWHERE


def layouts_of(contract):
    """Everything runs in eager; in compiled layouts run those contracts whose outcome can depend on the layout."""
    return LAYOUTS if contract.scope == "each" else LAYOUTS[:1]


def cases():
    for name, method in METHODS.items():
        for contract in CONTRACTS.values():
            for layout in layouts_of(contract):
                marks = [pytest.mark.xdist_group(name)]  # one worker compiles a method once
                if contract.name in method.xfail:
                    marks.append(pytest.mark.xfail(reason=method.xfail[contract.name], strict=True))
                compiled = contract.scope == "layouts" or layout != "eager"
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
