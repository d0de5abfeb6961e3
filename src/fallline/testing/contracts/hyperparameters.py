"""Hyperparameters: one validator at every way in, and values that are obeyed."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from fallline.core.method import Method
from fallline.core.optimizer import Optimizer
from fallline.testing.check import contract
from fallline.testing.harness import build, drive, lr_of, nothing_changes, parameters, same, snapshot


@contract(22, 23)
def bad_hyperparameters_are_refused(method: Method) -> None:
    """Negative, NaN, infinite and unknown hyperparameters are refused at every way in, and nothing changes."""
    optimizer = build(method, parameters())
    drive(optimizer, range(1, 3))
    before = snapshot(optimizer)
    good = optimizer.param_groups[0]["lr"]
    for bad in (-1.0, math.nan, math.inf, "1e-3", True):
        _refused(lambda bad=bad: method(lr=bad), f"{method.name}(lr={bad!r})")
        _refused(lambda bad=bad: build(method, [{"params": parameters(), "lr": bad}]), f"a group with lr={bad!r}")
        late = {"params": parameters(((2,),)), "lr": bad}
        _refused(lambda late=late: optimizer.add_param_group(late), f"a late group with lr={bad!r}")
        optimizer.param_groups[0]["lr"] = bad
        _refused(optimizer.step, f"a hand edit to lr={bad!r}")
        optimizer.param_groups[0]["lr"] = good
        saved = optimizer.state_dict()
        saved["param_groups"][0]["lr"] = bad
        _refused(lambda saved=saved: optimizer.load_state_dict(saved), f"a checkpoint with lr={bad!r}")
    _refused(lambda: method(lrr=0.1), "an unknown hyperparameter", says="lr")
    _refused(lambda: build(method, [{"params": parameters(), "lrr": 0.1}]), "an unknown group entry", says="lr")
    assert len(optimizer.param_groups) == 1
    assert same(before, snapshot(optimizer)), "a refused value changed the optimizer"


def _refused(call: Any, what: str, says: str = "") -> None:
    try:
        call()
    except (ValueError, TypeError) as error:
        assert str(error).count(". ") >= 1, f"the message for {what} has not its three parts: {error}"
        assert says in str(error), f"the message for {what} does not mention {says}: {error}"
    else:
        raise AssertionError(f"{what} was accepted")


def _ways_in(method: Method, optimizer: Optimizer, name: str, value: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every way by which a hyperparameter reaches an optimizer that trains already."""
    entry = {name: value}
    yield "constructor", lambda: method(**entry)
    yield "group", lambda: build(method, [{"params": parameters(((2,),)), **entry}])
    yield "late group", lambda: optimizer.add_param_group({"params": parameters(((2,),)), **entry})


@contract(22)
def every_hyperparameter_is_validated(method: Method) -> None:
    """NaN, infinity, text and values outside its domain are refused for every hyperparameter at every way in."""
    optimizer = build(method, parameters())
    drive(optimizer, (1, 2))
    group = optimizer.param_groups[0]
    for name in method.hypers:
        domain, good = method.domain(name), group[name]
        outside = [bound for bound in (domain.low - 1, domain.high + 1) if math.isfinite(bound)]
        for bad in (math.nan, math.inf, -math.inf, "0.1", None, *outside, torch.tensor(math.nan)):
            with nothing_changes(optimizer, f"refusing {name}={bad!r}"):
                for where, call in _ways_in(method, optimizer, name, bad):
                    _refused(call, f"{name}={bad!r} ({where})", says=name)
                saved = copy.deepcopy(optimizer.state_dict())
                saved["param_groups"][0][name] = bad
                _refused(lambda saved=saved: optimizer.load_state_dict(saved), f"{name}={bad!r} (load)", says=name)
                group[name] = bad
                _refused(optimizer.step, f"{name}={bad!r} (edit)", says=name)
                group[name] = good


@contract(23)
def unknown_names_are_refused(method: Method) -> None:
    """A misspelt hyperparameter is refused with the nearest known one, in the constructor and in groups, late ones too."""
    optimizer = build(method, parameters())
    with nothing_changes(optimizer, "refusing an unknown name"):
        for name in method.hypers:
            for where, call in _ways_in(method, optimizer, f"{name}x", 0.1):
                _refused(call, f"{name}x ({where})", says=f" {name}")


@contract(24, scope="each")
def tensor_lr_is_obeyed(method: Method) -> None:
    """A learning rate given as a tensor is obeyed, followed when it changes, and never mutated."""
    value = lr_of(method)
    a, b = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    lr = torch.tensor(value, dtype=torch.float64)
    by_tensor, by_number = build(method, a, lr=lr), build(method, b, lr=value)
    drive(by_tensor, (1, 2))
    drive(by_number, (1, 2))
    assert float(lr) == value, "the tensor was mutated"
    lr.mul_(0.5)
    by_number.param_groups[0]["lr"] = value / 2
    drive(by_tensor, (3, 4))
    drive(by_number, (3, 4))
    assert float(lr) == value / 2, "the tensor was mutated"
    assert same([p.detach() for p in a], [p.detach() for p in b], 1e-12), "a tensor lr acts differently from a number"


@contract(22)
def schedulers_act(method: Method) -> None:
    """torch's LRScheduler drives it; a fallline schedule with the same values gives the same run."""
    from fallline.core.schedule import Schedule

    class Halving(Schedule):
        def value(self, t: int) -> float:
            return float(0.5 ** (t - 1))

    lr = lr_of(method)
    a, b = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    driven, scheduled = build(method, a, lr=lr), build(method, b, lr=lr * Halving())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = torch.optim.lr_scheduler.ExponentialLR(driven, 0.5)
    for t in range(1, 5):
        drive(driven, (t,))
        drive(scheduled, (t,))
        scheduler.step()
    assert same([p.detach() for p in a], [p.detach() for p in b], 1e-12), "the two ways to schedule lr differ"
    assert driven.param_groups[0]["lr"] == lr / 16
