"""Checkpoints of torch.optim load into the drop-in classes and back, and the trajectory goes on as if nobody had changed."""

import copy
import io

import pytest
import torch
from torch import nn

import fallline
from fallline.core.transform import named_steps
from fallline.schedules import cosine
from fallline.testing.harness import drive, nothing_changes, parameters, same, snapshot

SHAPES = ((7, 5), (6,), ())

CASES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    ("Adagrad", {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3}),
    ("RMSprop", {}),
    ("RMSprop", {"alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1, "momentum": 0.8}),
    ("RMSprop", {"centered": True, "momentum": 0.8, "maximize": True}),
    ("Adadelta", {"lr": 0.5, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1}),
    ("Rprop", {"lr": 0.1, "etas": (0.4, 1.5), "step_sizes": (1e-2, 0.3)}),
    ("Adam", {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    ("Adam", {"amsgrad": True, "weight_decay": 0.1, "betas": (0.8, 0.9)}),
    ("Adam", {"decoupled_weight_decay": True, "weight_decay": 0.1, "maximize": True}),
    ("AdamW", {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3, "maximize": True}),
    ("AdamW", {"amsgrad": True, "betas": (0.8, 0.9)}),
    ("Adamax", {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    ("NAdam", {"betas": (0.8, 0.95), "momentum_decay": 0.1, "weight_decay": 0.1, "eps": 1e-3}),
    ("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    ("RAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
]  # fmt: skip
NAMES = sorted({name for name, _ in CASES})
ours, theirs = fallline.optim, torch.optim


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)  # torch keeps NAdam's momentum product in the default dtype
    yield
    torch.set_default_dtype(torch.float32)


def each(cases):
    return pytest.mark.parametrize(
        ("name", "options"), cases, ids=lambda v: v if isinstance(v, str) else "-".join(v) or "default"
    )


def on_disk(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def trained(library, name, options, steps=20, dtype=torch.float64):
    optimizer = getattr(library, name)(parameters(SHAPES, dtype), **options)
    drive(optimizer, range(1, steps + 1))
    return optimizer


def continued(source, library, name, options, save, **running):
    """A twin of ``source`` in the other library, from its checkpoint."""
    params = [nn.Parameter(p.detach().clone()) for group in source.param_groups for p in group["params"]]
    twin = getattr(library, name)(params, **options, **running)
    twin.load_state_dict(on_disk(save(source)))
    return twin


def of(optimizer):
    return [p.detach() for group in optimizer.param_groups for p in group["params"]]


def assert_goes_on_alike(a, b, tolerance=1e-10, steps=range(21, 61)):
    starts = [p.clone() for p in of(a)]
    drive(a, steps)
    drive(b, steps)
    for p, q, start in zip(of(a), of(b), starts, strict=True):
        moved = float((p - start).norm())
        assert moved > 0
        assert float((p - q).norm()) <= tolerance * moved


@each(CASES)
@pytest.mark.parametrize("steps", [0, 1, 20])
def test_from_torch_and_back(double, name, options, steps):
    source = trained(theirs, name, options, steps)
    middle = continued(source, ours, name, options, theirs.Optimizer.state_dict)
    straight = copy.deepcopy(source)
    back = continued(middle, theirs, name, options, ours.DropIn.torch_state_dict)
    assert_goes_on_alike(straight, middle)
    assert_goes_on_alike(source, back)


@each(CASES)
def test_to_torch(double, name, options):
    source = trained(ours, name, options)
    assert_goes_on_alike(source, continued(source, theirs, name, options, ours.DropIn.torch_state_dict))


@each(CASES)
def test_what_is_returned_is_what_torch_keeps(double, name, options):
    mine, reference = trained(ours, name, options).torch_state_dict(), trained(theirs, name, options).state_dict()
    assert mine["state"].keys() == reference["state"].keys()
    for key, state in reference["state"].items():
        assert {k: v for k, v in mine["state"][key].items() if k == "step"} == {
            k: v for k, v in state.items() if k == "step"
        }
        assert {k: (v.shape, v.dtype) for k, v in mine["state"][key].items() if k != "step"} == {
            k: (v.shape, v.dtype) for k, v in state.items() if k != "step"
        }
    assert mine["param_groups"] == reference["param_groups"]


@pytest.mark.parametrize("name", NAMES)
def test_every_slot_has_one_name_there(name):
    method = getattr(ours, name).method
    declared = [n for target in method.torch_state.values() for n in ([target] if isinstance(target, str) else target)]
    assert len(declared) == len(set(declared))
    slots = {n.split(" * ")[-1] for n in declared} - {"step"}
    for _, options in (case for case in CASES if case[0] == name):
        optimizer = getattr(ours, name)(parameters(SHAPES), **options)
        steps = optimizer._chains[0].steps
        assert {f"{key}.{slot}" for key, step in named_steps(steps) for slot in step.slots} <= slots


def test_torchs_classes_with_our_names_are_covered():
    shared = {m.label for m in fallline.METHODS.values()} & set(theirs.__all__)
    assert set(NAMES) <= shared
    undeclared = {m.label for m in fallline.METHODS.values() if m.torch_state is None} & set(NAMES)
    assert not undeclared


# -- forms of a checkpoint ----------------------------------------------------------------------------------------------


def test_steps_may_be_numbers_and_old_entries_may_lack(double):
    source = trained(theirs, "Adam", {})
    saved = source.state_dict()
    for state in saved["state"].values():
        state["step"] = float(state["step"])
    for group in saved["param_groups"]:
        for key in ("maximize", "decoupled_weight_decay", "fused", "capturable", "foreach", "differentiable"):
            del group[key]
    target = ours.Adam([nn.Parameter(p.clone()) for p in of(source)])
    target.load_state_dict(saved)
    assert {int(s["step"]) for s in target.state.values()} == {20}
    assert target.param_groups[0]["step"] == 20


def test_hyperparameters_come_along_and_tensors_are_copied(double):
    source = trained(theirs, "AdamW", {"lr": torch.tensor(0.01), "betas": (0.8, 0.9), "fused": None})
    target = ours.AdamW([nn.Parameter(p.clone()) for p in of(source)])
    target.load_state_dict(source.state_dict())
    assert target.param_groups[0]["betas"] == (0.8, 0.9)
    assert target.param_groups[0]["lr"] == 0.01
    assert_goes_on_alike(copy.deepcopy(source), target)
    before = copy.deepcopy(source.state_dict())
    source.param_groups[0]["lr"].fill_(9.0)
    assert float(target.param_groups[0]["lr"]) == 0.01
    saved = target.torch_state_dict()
    assert saved["param_groups"][0]["lr"] == 0.01
    again = snapshot(target)
    saved["state"][0]["exp_avg"].fill_(7.0)
    assert same(again, snapshot(target))
    assert before["state"][0]["step"] == 20


def test_a_scheduler_of_torch_goes_on(double):
    source = trained(theirs, "SGD", {"lr": 0.1, "momentum": 0.9})
    theirs.lr_scheduler.StepLR(source, 5)
    target = continued(source, ours, "SGD", {"lr": 0.1, "momentum": 0.9}, theirs.Optimizer.state_dict)
    assert target.param_groups[0]["initial_lr"] == 0.1
    assert "initial_lr" in target.torch_state_dict()["param_groups"][0]


def test_groups_and_names(double):
    def make(library, order):
        values = dict(zip("abc", parameters(((4, 3), (5,), (2,)), torch.float64), strict=True))
        groups = [[(n, values[n]) for n in order], [("c", values["c"])]]
        made = library.AdamW([{"params": groups[0], "lr": 0.1}, {"params": groups[1], "weight_decay": 0.0}])
        return made, values

    source, one = make(theirs, "ab")
    for t in range(1, 9):
        for i, n in enumerate("abc"):
            one[n].grad = torch.sin(one[n].detach() * (t + i))
        source.step()
    target, two = make(ours, "ba")
    target.load_state_dict(on_disk(source.state_dict()))
    for n in "abc":
        assert torch.equal(target.state[two[n]]["adam.m"], source.state[one[n]]["exp_avg"])
    assert [g["lr"] for g in target.param_groups] == [0.1, 1e-3]
    assert [g["weight_decay"] for g in target.param_groups] == [1e-2, 0.0]


@pytest.mark.parametrize("name", NAMES)
def test_parameters_without_gradients_start_later(double, name):
    """torch keeps nothing (Adagrad: zeros) for a parameter that has had no gradient."""
    options = dict(CASES)[name] if name != "SGD" else {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}

    def half_trained(library):
        a, b = parameters(((4, 3), (5,)), torch.float64)
        optimizer = getattr(library, name)([a, b], **options)
        for t in range(1, 6):
            a.grad = torch.sin(a.detach() * t)
            optimizer.step()
        return optimizer

    source = half_trained(theirs)
    assert_goes_on_alike(
        copy.deepcopy(source), continued(source, ours, name, options, theirs.Optimizer.state_dict), steps=range(6, 20)
    )
    mine = half_trained(ours)
    assert_goes_on_alike(
        copy.deepcopy(mine), continued(mine, theirs, name, options, ours.DropIn.torch_state_dict), steps=range(6, 20)
    )


# -- precision ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_state_is_widened_exactly_and_rounded_on_the_way_back(name):
    options = dict(CASES)[name]
    source = trained(theirs, name, options, 5, torch.bfloat16)
    saved = source.state_dict()
    target = continued(source, ours, name, options, theirs.Optimizer.state_dict)
    for state in target.state.values():
        assert all(v.dtype == torch.float32 for k, v in state.items() if k not in ("step", "compensation"))
        assert not any(bool(v.any()) for k, v in state.items() if k == "compensation")
    back = target.torch_state_dict()
    for key, state in saved["state"].items():
        for slot, value in state.items():
            if value is not None and slot != "mu_product":  # torch keeps that one in float32, and casts it on loading
                assert torch.equal(back["state"][key][slot], value), slot
    drive(target, range(6, 9))
    continued(target, theirs, name, options, ours.DropIn.torch_state_dict)


@pytest.mark.parametrize("form", ["bfloat16", "8bit"])
@pytest.mark.parametrize("name", NAMES)
def test_compact_state_is_encoded_and_decoded(name, form):
    """What torch saved is coded to nearest; parameters in transposed memory keep their blocks."""
    options = dict(CASES)[name]
    (a,) = parameters(((64, 70),))
    params = [nn.Parameter(a.detach().t()), *parameters(((3, 5),))]
    source = getattr(theirs, name)([nn.Parameter(p.detach().clone()) for p in params], **options)
    drive(source, range(1, 4))
    target = getattr(ours, name)(params, **options, state_format=form)
    target.load_state_dict(on_disk(source.state_dict()))
    back = target.torch_state_dict()
    again = getattr(ours, name)([nn.Parameter(p.detach().clone()) for p in params], **options, state_format=form)
    again.load_state_dict(back)
    assert same(snapshot(target), snapshot(again)), "decoding and coding again changed the state"
    for key, state in source.state_dict()["state"].items():
        for slot, value in state.items():
            if value is not None and value.dim():
                error = float((back["state"][key][slot] - value).abs().max())
                # half the spacing of bfloat16; half the widest gap of the map
                assert error <= (4e-3 if form == "bfloat16" else 8e-3) * float(value.abs().max()) + 1e-12
    drive(target, range(4, 6))


# -- refusals -----------------------------------------------------------------------------------------------------------


def refused(target, saved, text):
    with nothing_changes(target, "a refused checkpoint"), pytest.raises(ValueError, match=text):
        target.load_state_dict(saved)


@pytest.mark.parametrize(
    ("source", "saved_with", "target", "built_with", "text"),
    [
        ("Adam", {"amsgrad": True}, "Adam", {}, r"has amsgrad=True \(here False\)"),
        ("AdamW", {}, "AdamW", {"amsgrad": True}, r"has amsgrad=False \(here True\)"),
        ("SGD", {"momentum": 0.9}, "SGD", {}, r"has momentum=0.9 \(here 0.0\)"),
        ("SGD", {"momentum": 0.9, "nesterov": True}, "SGD", {"momentum": 0.9}, r"has nesterov=True \(here False\)"),
        ("RMSprop", {"centered": True}, "RMSprop", {}, r"has centered=True \(here False\)"),
        ("RAdam", {}, "RAdam", {"variant": "paper"}, r"has variant='authors' \(here 'paper'\)"),
        ("Adam", {"weight_decay": 0.1}, "AdamW", {}, "has decoupled_weight_decay=False, which fallline.optim.AdamW"),
        ("AdamW", {}, "Adam", {}, r"has decoupled_weight_decay=True \(here False\)"),
        ("RAdam", {}, "Adam", {}, "lacks amsgrad.*Expected the entries of torch.optim.Adam"),
        ("Adam", {}, "RAdam", {}, "has amsgrad.*Expected the entries of torch.optim.RAdam"),
        ("NAdam", {}, "RAdam", {}, "has momentum_decay"),
        ("Adadelta", {}, "Adagrad", {}, "lacks initial_accumulator_value, lr_decay and has"),
        ("Adam", {"differentiable": True}, "Adam", {}, "has differentiable=True"),
    ],
)
def test_what_would_go_on_differently_is_refused(source, saved_with, target, built_with, text):
    made = getattr(theirs, source)(parameters(SHAPES), **saved_with)
    if not saved_with.get("differentiable"):
        drive(made, range(1, 4))
    mine = trained(ours, target, built_with, 2, torch.float32)
    refused(mine, made.state_dict(), text)


def test_adam_without_decay_is_adamw_without_decay(double):
    source = trained(theirs, "Adam", {"weight_decay": 0.0})
    target = ours.AdamW([nn.Parameter(p.clone()) for p in of(source)], weight_decay=0.0)
    target.load_state_dict(source.state_dict())
    assert_goes_on_alike(source, target)


def test_damage_at_the_very_end_changes_nothing():
    good = trained(theirs, "Adam", {}, 3, torch.float32).state_dict()
    target = trained(ours, "Adam", {}, 1, torch.float32)
    ways = {
        "lacks exp_avg_sq": lambda s: s["state"][2].pop("exp_avg_sq"),
        r"has shape \(3,\). Expected \(\)": lambda s: s["state"][2].update(exp_avg=torch.zeros(3)),
        "has momentum_buffer": lambda s: s["state"][2].update(momentum_buffer=torch.zeros(())),
        "step of parameter 2 of group 0 is 1.5": lambda s: s["state"][2].update(step=torch.tensor(1.5)),
        "got lr=inf": lambda s: s["param_groups"][0].update(lr=float("inf")),
        "lacks lr": lambda s: s["param_groups"][0].pop("lr"),
        "has 2 parameters": lambda s: s["param_groups"][0].update(params=[0, 1]),
        "has 2 parameter groups": lambda s: s["param_groups"].append(dict(s["param_groups"][0])),
    }
    for text, spoil in ways.items():
        bad = copy.deepcopy(good)
        spoil(bad)
        refused(target, bad, text)


def test_sgd_with_a_schedule_has_to_be_told_its_step():
    source = trained(theirs, "SGD", {"lr": 0.1, "momentum": 0.9}, 3, torch.float32)
    target = ours.SGD(parameters(SHAPES), lr=0.1 * cosine(10), momentum=0.9)
    refused(
        target, source.state_dict(), "does not count its steps.*Expected the number of steps taken as the entry 'step'"
    )
    saved = source.state_dict()
    saved["param_groups"][0]["step"] = 3
    target.load_state_dict(saved)
    assert {int(s["step"]) for s in target.state.values()} == {3}
    assert target.param_groups[0]["lr"] == (0.1 * cosine(10))(3)


def test_rprop_at_rest_is_refused():
    saved = trained(theirs, "Rprop", {}, 3, torch.float32).state_dict()
    saved["param_groups"][0]["lr"] = 0.0
    refused(
        ours.Rprop(parameters(SHAPES)), saved, "lr=0, and rprop.scale of parameter 0 of group 0 is kept relative to it"
    )


def test_classes_without_a_counterpart_say_so():
    with pytest.raises(TypeError, match=r"Lion has no counterpart in torch.optim. Expected one of .*AdamW"):
        ours.Lion(parameters(SHAPES)).torch_state_dict()
    source = trained(theirs, "Adam", {}, 1, torch.float32)
    refused(ours.Lion(parameters(SHAPES)), source.state_dict(), "saved by another library, this one runs lion")


def test_what_torch_does_not_have_is_not_handed_over():
    with pytest.raises(ValueError, match=r"has variant='paper', which torch.optim.RAdam does not know"):
        ours.RAdam(parameters(SHAPES), variant="paper").torch_state_dict()
    a, b = parameters(((3,), (4,)))
    mixed = ours.AdamW([{"params": [a]}, {"params": [b], "chain": fallline.methods.lion(1e-4)}])
    with pytest.raises(ValueError, match=r"Group 1 runs lion, not adamw"):
        mixed.torch_state_dict()


def test_options_of_our_own_checkpoints_are_checked_too():
    source = trained(ours, "SGD", {"momentum": 0.9, "nesterov": True}, 3, torch.float32)
    refused(ours.SGD(parameters(SHAPES), momentum=0.9), source.state_dict(), r"nesterov=True \(here False\)")
