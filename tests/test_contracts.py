"""Every registered method keeps every contract; a new method is tested by being registered."""

import pytest

from fallline import METHODS
from fallline.core.execute import compiler_available
from fallline.testing import CONTRACTS

COMPILED = {"compiled_equals_eager", "hyperparameters_never_recompile"}


def cases():
    for name, method in METHODS.items():
        for contract in CONTRACTS.values():
            marks = [pytest.mark.xdist_group(name)]  # one worker compiles a method once
            if contract.name in method.xfail:
                marks.append(pytest.mark.xfail(reason=method.xfail[contract.name], strict=True))
            if contract.name in COMPILED and not compiler_available():
                marks.append(pytest.mark.skip(reason="no C++ compiler on this machine"))
            yield pytest.param(method, contract, id=f"{name}-{contract.name}", marks=marks)


@pytest.mark.parametrize(("method", "contract"), list(cases()))
def test_contract(method, contract):
    contract.check(method)


def test_a_method_declares_only_contracts_that_exist():
    for method in METHODS.values():
        assert set(method.xfail) <= set(CONTRACTS), method.name
