"""The contracts can fail: broken methods are caught, and by the contract that should catch them."""

import pytest
import torch

from fallline.core.method import METHODS, method
from fallline.core.space import log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper
from fallline.testing import CONTRACTS, check
from fallline.transforms import descend


@pytest.fixture
def register():
    """Registers methods for one test only."""
    before = dict(METHODS._methods)

    def add(step, name="broken", xfail=None):
        def recipe(lr: Hyper = 0.1):
            return chain(step, descend(lr))

        recipe.__name__ = name
        recipe.__doc__ = "Broken: for tests."
        return method(title="none", year=2026, space={"lr": log(1e-3, 1.0)}, xfail=xfail)(recipe)

    yield add
    METHODS._methods.clear()
    METHODS._methods.update(before)


@transform
class Plain(Transform):
    """A correct step, for comparison."""

    def update(self, u, at):
        return u, {}


@transform
class LooksAround(Plain):
    """Claims to be elementwise, but divides by the norm."""

    def update(self, u, at):
        return u / (u.norm() + 1e-12), {}


@transform
class DependsOnShape(Plain):
    reach = Plain.reach.TENSOR

    def update(self, u, at):
        return (u / (1 + u.abs().amax(0, keepdim=True)) if u.dim() > 1 else u), {}


@transform
class DrawsNumbers(Plain):
    def update(self, u, at):
        return u * torch.rand(()), {}


@transform
class ChangesTheGradient(Plain):
    def update(self, u, at):
        return u.mul_(0.5), {}


@transform
class Ascends(Plain):
    def update(self, u, at):
        return -u, {}


@transform
class NeverStill(Plain):
    def update(self, u, at):
        return u + 1e-3, {}


@transform
class DividesByZero(Plain):
    slots = zeros("v")

    def update(self, u, at, *, v):
        v = v + u * u
        return u / v.sqrt(), {"v": v}


@transform
class ForgetsItsState(Plain):
    """Keeps a counter outside the optimizer's state."""

    calls = {"n": 0}

    def update(self, u, at):
        self.calls["n"] += 1
        return u / self.calls["n"], {}


@transform
class CoarseState(Plain):
    slots = {"m": lambda step, p: torch.zeros_like(p, dtype=torch.bfloat16)}

    def update(self, u, at, *, m):
        m = 0.9 * m.to(u.dtype) + u
        return m, {"m": m}


@pytest.mark.parametrize(
    ("step", "contract"),
    [
        (LooksAround(), "reach_is_honest"),
        (DependsOnShape(), "reach_is_honest"),
        (DrawsNumbers(), "gradients_and_randomness_are_untouched"),
        (ChangesTheGradient(), "gradients_and_randomness_are_untouched"),
        (Ascends(), "converges"),
        (NeverStill(), "zero_gradients_move_nothing"),
        (DividesByZero(), "zero_gradients_move_nothing"),
        (ForgetsItsState(), "resume_is_bitwise"),
        (ForgetsItsState(), "copies_continue_bitwise"),
        (CoarseState(), "half_precision_keeps_float32_state"),
    ],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_a_broken_method_is_caught(register, step, contract):
    report = check(register(step), contract)
    assert not report.ok
    assert f"BROKEN   {contract}" in str(report)


def test_a_sound_method_keeps_every_contract(register):
    fast = [c for c in CONTRACTS if "compile" not in c and "compiled" not in c]
    report = check(register(Plain(), "sound"), *fast)
    assert report.ok, str(report)
    assert f"{len(fast)} of {len(fast)} contracts" in str(report)


def test_declarations_are_strict(register):
    declared = register(NeverStill(), "declared", xfail={"zero_gradients_move_nothing": "it never rests"})
    assert check(declared, "zero_gradients_move_nothing").ok
    stale = register(Plain(), "stale", xfail={"converges": "no reason"})
    report = check(stale, "converges")
    assert not report.ok
    assert "STALE    converges" in str(report)
