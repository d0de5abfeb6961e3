"""The contracts can fail: broken methods are caught, and by the contract that should catch them."""

import contextlib
import copy
import os

import pytest
import torch

from fallline.core.execute import compiler_available
from fallline.core.method import METHODS, method
from fallline.core.optimizer import Optimizer
from fallline.core.space import log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper
from fallline.testing import CONTRACTS, Report, Result, check, harness
from fallline.transforms import descend, momentum


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


@transform
class FreezesOnTinyGradients(Plain):
    """Measures every gradient by the first one."""

    slots = zeros("first")

    def update(self, u, at, *, first):
        first = torch.where(first == 0, u.abs(), first)
        return u * first.clamp(max=1.0), {"first": first}


@transform
class DependsOnTheProcess(Plain):
    def update(self, u, at):
        return u * (1 + 1e-5 * os.getpid()), {}


@transform
class ReadsBack(Plain):
    def update(self, u, at):
        return (u if float(u.sum()) > 0 else 0.5 * u), {}


@pytest.mark.parametrize(
    ("step", "contract"),
    [
        (LooksAround(), "reach_is_honest"),
        (DependsOnShape(), "reach_is_honest"),
        (DrawsNumbers(), "gradients_and_randomness_are_untouched"),
        (DrawsNumbers(), "rounding_leaves_global_randomness_alone"),
        (ChangesTheGradient(), "gradients_and_randomness_are_untouched"),
        (Ascends(), "converges"),
        (FreezesOnTinyGradients(), "extreme_gradients_neither_freeze_nor_diverge"),
        (NeverStill(), "zero_gradients_move_nothing"),
        (NeverStill(), "movement_dies_out"),
        (ForgetsItsState(), "resume_is_bitwise"),
        (ForgetsItsState(), "resume_in_another_process_is_bitwise"),
        (DependsOnTheProcess(), "resume_in_another_process_is_bitwise"),
        (ForgetsItsState(), "compact_state_resumes_bitwise"),
        (ForgetsItsState(), "every_rounding_resumes_bitwise"),
        (ForgetsItsState(), "copies_continue_bitwise"),
        (ForgetsItsState(), "equals_a_plain_loop"),
        (CoarseState(), "half_precision_keeps_float32_state"),
        (ReadsBack(), "nothing_is_read_back"),
    ],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_a_broken_method_is_caught(register, step, contract):
    report = check(register(step), contract)
    assert not report.ok
    assert f"BROKEN   {contract}: AssertionError" in str(report)


@pytest.mark.skipif(not compiler_available(), reason="no C++ compiler on this machine")
def test_a_step_that_cannot_be_compiled_is_caught(register):
    broken = register(ReadsBack())
    for contract in ("compiled_equals_eager", "steps_compile_without_graph_breaks"):
        assert not check(broken, contract).ok


# -- broken optimizers: what a method cannot get wrong, because the core does it ----------------------------------------


def _all(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


class Afterwards(Optimizer):
    """Steps as it should, and then does something else to each parameter."""

    def step(self, closure=None, *, loss=None):
        result = super().step(closure, loss=loss)
        with torch.no_grad():
            for p in _all(self):
                self.harm(p)
        return result

    def harm(self, p):
        raise NotImplementedError


class AgesWhenSkipping(Afterwards):
    def harm(self, p):
        if not torch.isfinite(p.grad.square()).all():
            self.state[p]["step"].add_(1)


class AgesWithoutGradient(Afterwards):
    def harm(self, p):
        self.state[p]["step"].add_(1)


class WritesOverflows(Afterwards):
    def harm(self, p):
        p.fill_(torch.inf)


class SquaresInFloat16(Afterwards):
    def harm(self, p):
        p.add_(0 * (p.grad * p.grad))


class RoundsTwice(Afterwards):
    def harm(self, p):
        p.mul_(1 + 2 * torch.finfo(p.dtype).eps)


class AddsALittle(Afterwards):
    def harm(self, p):
        p.mul_(1 + 1e-9)


class DecaysFrozenParameters(Afterwards):
    def harm(self, p):
        if p.grad is None:
            p.mul_(0.9)


class MovesInMemory(Afterwards):
    def harm(self, p):
        p.data = p.data.clone()


class ForgetsStrides(Afterwards):
    def harm(self, p):
        p.data = p.data.contiguous()


class StepsBeforeLooking(Optimizer):
    def step(self, closure=None, *, loss=None):
        with torch.no_grad():
            _all(self)[0].mul_(0.9)
        return super().step(closure, loss=loss)


class IgnoresBadEdits(Optimizer):
    def step(self, closure=None, *, loss=None):
        try:
            return super().step(closure, loss=loss)
        except (ValueError, TypeError):
            return None


class IgnoresItsOptions(Optimizer):
    def __init__(self, params, chain, *, maximize=False, fuse="auto", **_):
        super().__init__(params, chain, maximize=maximize, fuse=fuse)


class RoundsToNearest(Optimizer):
    def __init__(self, params, chain, **options):
        super().__init__(params, chain, **{**options, "rounding": "nearest"})


class KeepsHalfAGroup(Optimizer):
    def add_param_group(self, param_group):
        try:
            super().add_param_group(param_group)
        except ValueError:
            if self.param_groups:
                self.param_groups.append({**self.param_groups[0], "params": [torch.zeros(2)]})
            raise


class AllowsSharing(Optimizer):
    def add_param_group(self, param_group):
        with contextlib.suppress(ValueError):
            super().add_param_group(param_group)


class DropsUnknownNames(Optimizer):
    def add_param_group(self, param_group):
        super().add_param_group({k: v for k, v in param_group.items() if k in ("params", "lr", "chain")})


class AliasesOnLoading(Optimizer):
    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        for i, p in enumerate(_all(self)):
            self.state[p] = state_dict["state"][i]


class ChangesBeforeChecking(Optimizer):
    def load_state_dict(self, state_dict):
        for p in _all(self):
            self.state[p]["step"].fill_(99)
        super().load_state_dict(state_dict)


class LoadsByPosition(Optimizer):
    def load_state_dict(self, state_dict):
        state_dict = copy.deepcopy(state_dict)
        for group in state_dict["param_groups"]:
            group.pop("param_names")
        super().load_state_dict(state_dict)


class LoadsContiguously(Optimizer):
    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        for p in _all(self):
            self.state[p] = {k: v.contiguous() for k, v in self.state[p].items()}


class LoadsTwice(Optimizer):
    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        super().load_state_dict(state_dict)


class SavesObjects(Optimizer):
    def state_dict(self):
        return {**super().state_dict(), "chain": self._default_chain}


class KeepsGradients(Optimizer):
    def zero_grad(self, set_to_none=True):
        super().zero_grad(set_to_none=False)


class SaysNothing(Optimizer):
    def explain(self):
        return ""


class IgnoresTheScaler(Optimizer):
    _step_supports_amp_scaling = True


class NeverStepsInside(Optimizer):
    def step_in_backward(self):
        pass


@pytest.mark.parametrize(
    ("optimizer", "contract", "says"),
    [
        (AgesWhenSkipping, "nonfinite_gradients_change_nothing", "changed parameters or state"),
        (IgnoresItsOptions, "endless_skipping_raises", "raised nothing at patience=3"),
        (IgnoresItsOptions, "nonfinite_raise_changes_nothing", "an infinite gradient raised nothing"),
        (IgnoresItsOptions, "nonfinite_zero_drops_the_entry", "is not a zero"),
        (WritesOverflows, "overflowing_elements_keep_their_value", "an overflowing step was written"),
        (RoundsToNearest, "bfloat16_makes_float32_progress", "of float32's progress"),
        (SquaresInFloat16, "float16_never_turns_nan", "left non-finite numbers"),
        (RoundsTwice, "half_precision_computes_in_float32", "is not float32's"),
        (AddsALittle, "equals_a_plain_loop", "expected 1e-12"),
        (AliasesOnLoading, "roll_back_is_bitwise", "training changed the state_dict"),
        (AliasesOnLoading, "loading_copies_and_validates", "state is shared"),
        (ChangesBeforeChecking, "failed_load_changes_nothing", "changed parameters or state"),
        (LoadsByPosition, "names_win_over_positions", "went to another parameter"),
        (LoadsContiguously, "state_keeps_its_form", "saving and loading changed the form"),
        (IgnoresItsOptions, "compact_state_is_compact", "bytes a parameter as bfloat16"),
        (SavesObjects, "checkpoints_hold_plain_data", "state_dict['chain'] is a MethodChain"),
        (AgesWithoutGradient, "nothing_happens_without_gradients", "changed parameters or state"),
        (DecaysFrozenParameters, "frozen_parameters_start_late", "a frozen parameter moved"),
        (ForgetsStrides, "strided_memory_steps", "strides changed"),
        (KeepsHalfAGroup, "complex_parameters_work_or_are_refused", "refusing a complex parameter changed"),
        (StepsBeforeLooking, "sparse_gradients_work_or_are_refused", "a refused sparse gradient changed"),
        (AllowsSharing, "shared_parameters_are_refused", "shares a parameter"),
        (MovesInMemory, "steps_are_in_place", "moved in memory"),
        (KeepsGradients, "zero_grad_is_torchs", "kept a gradient"),
        (IgnoresBadEdits, "every_hyperparameter_is_validated", "(edit) was accepted"),
        (DropsUnknownNames, "unknown_names_are_refused", "lrx (group) was accepted"),
        (LoadsTwice, "checkpoint_hooks_run_once", "the order was"),
        (SaysNothing, "explain_names_what_runs", "does not name broken"),
        (IgnoresTheScaler, "grad_scaler_skips", "GradScaler"),
        (NeverStepsInside, "step_in_backward_equals_step_after", "was accepted"),
    ],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_a_broken_optimizer_is_caught(register, monkeypatch, optimizer, contract, says):
    step = Plain() if contract == "bfloat16_makes_float32_progress" else momentum(0.9)
    broken = register(step)
    monkeypatch.setattr(harness, "Optimizer", optimizer)
    report = check(broken, contract)
    assert f"BROKEN   {contract}: AssertionError" in str(report)
    assert says in str(report)


def test_a_sound_method_keeps_every_contract(register):
    fast = [name for name, contract in CONTRACTS.items() if contract.scope != "layouts"]
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


def test_layouts_are_columns_and_agreement_is_marked(register):
    report = check(
        register(Plain(), "columns"), "lr_zero_moves_nothing", "hyperparameters_never_recompile", layouts=("eager",)
    )
    assert [r.layout for r in report.results] == ["eager", "eager"]
    kept, broken = CONTRACTS["lr_zero_moves_nothing"], CONTRACTS["converges"]
    once = CONTRACTS["compiled_equals_eager"]
    table = str(
        Report(
            report.method,
            (
                *(Result(kept, layout=x) for x in ("eager", "leaf")),
                Result(broken, layout="eager"),
                Result(broken, "it diverged", layout="leaf"),
                Result(once),
            ),
            ("eager", "leaf"),
        )
    )
    assert "columns: 4 of 5 contracts\neager    leaf " in table
    assert "kept     kept     = lr_zero_moves_nothing: With lr = 0" in table
    assert "kept     BROKEN     converges: in leaf: it diverged" in table
    assert "kept     -          compiled_equals_eager:" in table


def test_a_contract_runs_in_the_layout_asked_for(register, monkeypatch):
    seen = []

    class Notes(Optimizer):
        def __init__(self, params, chain, *, fuse, **options):
            seen.append(fuse)
            super().__init__(params, chain, fuse="eager", **options)

    monkeypatch.setattr(harness, "Optimizer", Notes)
    check(register(Plain()), "lr_zero_moves_nothing", layouts=("eager", "leaf"))
    assert seen == ["eager", "leaf"]


def test_unknown_contracts_and_layouts_are_refused(register):
    sound = register(Plain())
    with pytest.raises(ValueError, match=r"Unknown contract 'convergez'\. Did you mean converges"):
        check(sound, "convergez")
    with pytest.raises(ValueError, match=r"Unknown layout 'gpu'\. Known: blocks, eager"):
        check(sound, layouts=("gpu",))
