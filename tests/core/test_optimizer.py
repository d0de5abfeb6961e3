"""The optimizer's own behaviour: groups, schedules, names, errors. What every method promises is in test_contracts."""

import copy
import io

import pytest
import torch
from torch import nn

import fallline
from fallline import METHODS, chain
from fallline.methods import adam, lion
from fallline.schedules import cosine, warmup
from fallline.testing.harness import drive, gradients, parameters, same, snapshot
from fallline.transforms import clip_by_global_norm, descend


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
    x = torch.linspace(-1, 1, 20).reshape(5, 4)
    for _ in range(steps):
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_it_is_a_torch_optimizer_and_trains():
    model = net()
    optimizer = fallline.optim.Adam(model.parameters(), lr=0.01)
    assert isinstance(optimizer, torch.optim.Optimizer)
    first = train(model, optimizer, 1)
    assert train(model, optimizer, 60) < first / 10


def test_state_is_named_after_step_and_slot_and_exists_from_the_start():
    model = net()
    optimizer = fallline.Optimizer(model, chain(clip_by_global_norm(1.0), adam(lr=0.01)))
    state = optimizer.state_dict()["state"][0]
    assert set(state) == {"step", "adam.m", "adam.v"}
    assert optimizer.param_groups[0]["param_names"][0] == "0.weight"


def test_groups_hold_every_hyperparameter_by_torchs_names():
    group = fallline.optim.Adam(net().parameters(), lr=0.01, betas=(0.8, 0.99)).param_groups[0]
    assert group["betas"] == (0.8, 0.99)
    assert {"lr", "eps", "weight_decay", "maximize"} <= set(group)


def test_one_cycle_scheduler_moves_betas():
    optimizer = fallline.optim.Adam(net().parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["betas"][0] != 0.9
    optimizer.step()


def test_grad_scaler_skips_a_step_with_infinite_gradients():
    params = parameters(((3,),))
    optimizer = fallline.Optimizer(params, adam(lr=0.1))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    before = snapshot(optimizer)
    scaler.scale((params[0] * float("inf")).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert same(before, snapshot(optimizer))


def test_a_schedule_is_written_into_the_group_and_survives_resume():
    def make(p):
        return fallline.Optimizer(p, adam(lr=0.1 * (warmup(2) >> cosine(8))))

    params = parameters(((3,),))
    optimizer = make(params)
    seen = []
    for t in range(1, 4):
        drive(optimizer, (t,))
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen == [0.05, 0.1, 0.1]
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twin = make([nn.Parameter(params[0].detach().clone())])
    twin.load_state_dict(torch.load(file, weights_only=True))
    for o in (optimizer, twin):
        drive(o, range(4, 9))
    assert same(snapshot(optimizer), snapshot(twin))


def test_a_schedule_for_one_of_torchs_betas():
    optimizer = fallline.Optimizer(parameters(((3,),)), adam(b1=0.9 * warmup(3)))
    drive(optimizer, (1,))
    assert optimizer.param_groups[0]["b1"] == pytest.approx(0.3)


def test_editing_a_scheduled_hyperparameter_is_an_error_not_silence():
    optimizer = fallline.Optimizer(parameters(((3,),)), adam(lr=0.1 * warmup(3)))
    optimizer.param_groups[0]["lr"] = 0.5
    with pytest.raises(ValueError, match=r"follows the schedule .* the edit would be lost\. Change the schedule"):
        drive(optimizer, (1,))


def test_per_group_overrides_and_chains():
    a, b = parameters(((3,), (2,)))
    optimizer = fallline.Optimizer([{"params": [a], "lr": 0.5}, {"params": [b], "chain": lion(lr=0.25)}], adam(lr=0.1))
    assert [g["method"] for g in optimizer.param_groups] == ["adam", "lion"]
    start = b.detach().clone()
    drive(optimizer, (1,))
    assert torch.allclose((b - start).abs(), torch.tensor(0.25))


def test_rules_by_name_send_each_parameter_to_its_first_match():
    model = net()
    optimizer = fallline.Optimizer(model, {"*bias|1.*": adam(lr=0.1), "*": lion(lr=0.01)})
    names = [g["param_names"] for g in optimizer.param_groups]
    assert names == [["0.bias", "1.weight", "1.bias", "2.bias"], ["0.weight", "2.weight"]]
    train(model, optimizer, 2)


def test_rules_refuse_uncovered_parameters_dead_patterns_and_plain_lists():
    with pytest.raises(ValueError, match=r"'0.weight' .* matches none of the patterns .* Add '\*'"):
        fallline.Optimizer(net(), {"*bias": adam()})
    with pytest.raises(ValueError, match=r"'\*embed\*' has no parameters: no name matches"):
        fallline.Optimizer(net(), {"*embed*": adam(), "*": adam()})
    with pytest.raises(ValueError, match=r"earlier patterns take all it matches"):
        fallline.Optimizer(net(), {"*": adam(), "*bias": adam()})
    with pytest.raises(TypeError, match=r"got list instead of a model"):
        fallline.Optimizer(list(net().parameters()), {"*": adam()})


def test_the_global_norm_spans_groups_with_different_hyperparameters():
    a, b = parameters(((4,), (3,)), torch.float64)
    optimizer = fallline.Optimizer(
        [{"params": [a]}, {"params": [b], "lr": 2.0}], chain(clip_by_global_norm(0.1), descend(1.0))
    )
    a0, b0 = a.detach().clone(), b.detach().clone()
    a.grad, b.grad = gradients([a, b], 1)
    norm = torch.sqrt(a.grad.square().sum() + b.grad.square().sum())
    optimizer.step()
    assert torch.allclose(a0 - a, 0.1 * a.grad / norm, rtol=1e-5)
    assert torch.allclose(b0 - b, 0.2 * b.grad / norm, rtol=1e-5)


@pytest.mark.skipif(not fallline.core.execute.compiler_available(), reason="no C++ compiler on this machine")
def test_a_chain_with_a_group_step_compiles_to_the_same_numbers():
    made = [
        fallline.Optimizer(
            parameters(((5, 4), (7,)), torch.float64), chain(clip_by_global_norm(0.5), adam(0.1)), fuse=f
        )
        for f in ("eager", "leaf")
    ]
    for optimizer in made:
        drive(optimizer, range(1, 5))
    assert same(*map(snapshot, made), 1e-12)


def test_names_win_over_positions_on_loading():
    model = net()
    optimizer = fallline.Optimizer(model, adam(lr=0.01))
    train(model, optimizer, 2)
    shuffled = list(model.named_parameters())[::-1]
    twin = fallline.Optimizer(shuffled, adam(lr=0.01))
    twin.load_state_dict(optimizer.state_dict())
    for p in model.parameters():
        assert torch.equal(optimizer.state[p]["adam.m"], twin.state[p]["adam.m"])


def test_loading_refuses_what_does_not_fit_and_says_why():
    model = net()
    optimizer = fallline.Optimizer(model, adam(lr=0.01))
    good = optimizer.state_dict()

    def broken(change):
        bad = copy.deepcopy(good)
        change(bad)
        return bad

    cases = {
        r"not an optimizer's state_dict": lambda s: s.pop("state"),
        r"2 parameter groups, this optimizer 1": lambda s: s["param_groups"].append(s["param_groups"][0]),
        r"saved by another library, this one runs adam": lambda s: s["param_groups"][0].pop("method"),
        r"lacks b1": lambda s: s["param_groups"][0].pop("b1"),
        r"has 5 parameters, this optimizer's has 6": lambda s: s["param_groups"][0]["params"].pop(),
        r"differ in .*7\.weight": lambda s: s["param_groups"][0]["param_names"].__setitem__(0, "7.weight"),
        r"state of 0\.weight has slots": lambda s: s["state"][0].pop("adam.m"),
        r"adam\.v of 0\.weight has shape \(2,\)": lambda s: s["state"][0].__setitem__("adam.v", torch.zeros(2)),
    }
    for text, change in cases.items():
        with pytest.raises(ValueError, match=text):
            optimizer.load_state_dict(broken(change))


def test_options_that_belong_to_torch_are_named_in_the_refusal():
    with pytest.raises(
        ValueError, match=r"'fused'.*fallline decides how steps are fused itself \(fuse=\.\.\.\); drop fused"
    ):
        fallline.optim.Adam(net().parameters(), fused=True)


def test_structural_options_cannot_change_while_training():
    optimizer = fallline.optim.Adam(parameters(((3,),)))
    optimizer.param_groups[0]["decoupled_weight_decay"] = True
    with pytest.raises(
        ValueError, match=r"adam now has decoupled_weight_decay=True \(built with False\), which needs other state"
    ):
        drive(optimizer, (1,))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: fallline.Optimizer(net(), adam), r"got <method adam> as its chain\. .* Call the method"),
        (
            lambda: fallline.Optimizer(net(), adam(), fuse="together"),
            r"Unknown fuse mode 'together'\. Known: auto, blocks, eager, flat, leaf",
        ),
        (lambda: fallline.optim.Adam(net().parameters(), betas=0.9), r"betas=0\.9\. Expected 2 numbers \(b1, b2\)"),
        (
            lambda: fallline.optim.Adam(net().parameters(), *range(12)),
            r"12 positional hyperparameters\. It takes at most",
        ),
        (
            lambda: fallline.Optimizer([torch.zeros(2, dtype=torch.complex64, requires_grad=True)], adam()),
            r"view_as_real",
        ),
        (lambda: chain(), r"chain\(\) got no steps"),
        (lambda: chain(adam), r"Expected transforms or chains"),
        (lambda: chain(type(descend(1.0))), r"Call it: Descend"),
        (lambda: adam(1e-3, lr=1e-3), r"adam\(\) got lr twice"),
        (lambda: adam(*range(12)), r"takes at most"),
        (lambda: adam(decoupled_weight_decay=1), r"Expected True or False"),
        (lambda: adam(lr=torch.zeros(2)), r"a tensor of shape \(2,\)"),
        (lambda: METHODS["adamm"], r"Unknown method 'adamm'\. Did you mean adam"),
    ],
)
def test_mistakes_are_answered_in_three_parts(make, text):
    with pytest.raises((TypeError, ValueError), match=text):
        make()


def test_sparse_gradients_are_refused_with_parameters_untouched():
    table = nn.Embedding(5, 3, sparse=True)
    optimizer = fallline.Optimizer(table, adam())
    before = table.weight.detach().clone()
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match=r"sparse gradient .* sparse=False"):
        optimizer.step()
    assert torch.equal(before, table.weight)


def test_frozen_parameters_have_no_state_until_they_learn():
    model = net()
    model[0].requires_grad_(False)
    optimizer = fallline.Optimizer(model, adam(lr=0.1))
    train(model, optimizer, 1)
    assert not optimizer.state[model[0].weight]
    model[0].requires_grad_(True)
    train(model, optimizer, 1)
    assert int(optimizer.state[model[0].weight]["step"]) == 1
    assert int(optimizer.state[model[2].weight]["step"]) == 2


def test_a_failing_late_group_leaves_the_optimizer_as_it_was():
    optimizer = fallline.Optimizer(parameters(((3,),)), adam())
    with pytest.raises(ValueError, match="view_as_real"):
        optimizer.add_param_group({"params": [torch.zeros(2, dtype=torch.complex64, requires_grad=True)]})
    assert len(optimizer.param_groups) == 1
    drive(optimizer, (1,))


def test_equal_chains_are_equal_and_hashable():
    assert adam(lr=0.1) == adam(lr=0.1) != adam(lr=0.2)
    assert hash(adam(lr=0.1)) == hash(adam(lr=0.1))
    assert chain(descend(1.0)) == chain(descend(1.0))
    assert repr(adam()).startswith("adam(lr=0.001")
