"""rescale: the rules' numbers, schedules, what is refused and with which words; the large-batch recipe."""

import pytest
import torch
from torch import nn

import fallline
from fallline.core.errors import FalllineError
from fallline.core.transform import chain
from fallline.methods import adam, adamw, heavy_ball, lamb, lars, lion, nesterov, rmsprop, sgd, sgdw, signsgd
from fallline.scaling import RULES, correct_momentum, large_batch, no_decay_groups, rescale, surge
from fallline.schedules import cosine, warmup
from fallline.transforms import clip_by_global_norm


@pytest.mark.parametrize("method", [sgd, nesterov, heavy_ball, sgdw])
@pytest.mark.parametrize("rule", ["linear", "rmt"])
def test_sgd_scales_linearly_and_keeps_the_rest(method, rule):
    before = method(lr=0.1, momentum=0.9, weight_decay=1e-4)
    after = rescale(before, batch=256, to=4096, rule=rule)
    assert after.values == {**before.values, "lr": pytest.approx(1.6)}


def test_the_square_root_rule_moves_all_of_adam():
    after = rescale(adamw(lr=1e-3, b1=0.95, b2=0.999, eps=1e-8, weight_decay=0.1), batch=64, to=256, rule="sqrt").values
    assert after["lr"] == pytest.approx(2e-3)
    assert after["b1"] == pytest.approx(1 - 4 * 0.05)
    assert after["b2"] == pytest.approx(1 - 4 * 0.001)
    assert after["eps"] == pytest.approx(5e-9)
    assert after["weight_decay"] == pytest.approx(0.2)


@pytest.mark.parametrize("chain_", [adamw(1e-3), adam(1e-3, b1=0.0), rmsprop(1e-2, b2=0.99), sgd(0.1, momentum=0.9)])
def test_there_and_back_is_where_it_started(chain_):
    for rule in RULES:
        try:
            there = rescale(chain_, 256, 1024, rule, noise_scale=500.0 if rule == "surge" else None)
        except FalllineError:
            continue
        back = rescale(there, 1024, 256, rule, noise_scale=500.0 if rule == "surge" else None)
        for name, value in chain_.values.items():
            assert back.values[name] == pytest.approx(value, rel=1e-9), (rule, name)


def test_schedules_are_scaled_in_value():
    rate = 1e-3 * (warmup(10) >> cosine(90))
    after = rescale(adamw(lr=rate, b1=0.8 + 0.15 * warmup(50)), batch=64, to=256, rule="sqrt").values
    for t in (1, 10, 70):
        assert after["lr"](t) == pytest.approx(2 * rate(t))
    assert after["b1"](50) == pytest.approx(1 - 4 * 0.05)


def test_a_rescaled_chain_trains():
    p = nn.Parameter(torch.ones(3))
    optimizer = fallline.Optimizer([p], rescale(lion(1e-3), 64, 128, "surge", noise_scale=1000.0))
    p.grad = torch.ones(3)
    optimizer.step()
    assert torch.allclose(p, 1 - 1e-3 * torch.tensor(surge(128, 1000.0) / surge(64, 1000.0)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rescale(adamw(), 256, 512, "quadratic"), "Unknown rule 'quadratic'"),
        (lambda: rescale(adamw(), 0, 512, "sqrt"), "batch=0"),
        (lambda: rescale(adamw(), 256, 1.5, "sqrt"), "to=1.5"),
        (
            lambda: rescale(adamw(), 256, 512, "linear"),
            "does not cover adamw. Expected one of heavy_ball, nesterov, sgd, sgdw",
        ),
        (lambda: rescale(lamb(), 256, 512, "sqrt"), "does not cover lamb"),
        (lambda: rescale(sgd(0.1), 256, 512, "sqrt"), "does not cover sgd"),
        (lambda: rescale(adamw(b1=0.9), 256, 2816, "sqrt"), "would need b1=.*the rule ends below a factor of 10"),
        (lambda: rescale(adamw(amsgrad=True), 256, 512, "sqrt"), "amsgrad=True: the rule is derived for Adam's own"),
        (lambda: rescale(adam(weight_decay=0.1), 256, 512, "sqrt"), "weight_decay=0.1.*use adamw"),
        (lambda: rescale(rmsprop(momentum=0.9), 256, 512, "sqrt"), "RMSProp without momentum"),
        (lambda: rescale(rmsprop(centered=True), 256, 512, "sqrt"), "Expected centered=False"),
        (lambda: rescale(adam(weight_decay=cosine(9)), 256, 512, "sqrt"), "Expected weight_decay=0"),
        (lambda: rescale(lion(), 256, 512, "surge"), "noise_scale=None.*Parts.noise_scale"),
        (lambda: rescale(lion(), 256, 512, "surge", noise_scale=-1.0), "above 0"),
        (lambda: rescale(sgd(0.1), 256, 512, "linear", noise_scale=10.0), "does not use it"),
        (lambda: rescale(chain(clip_by_global_norm(1.0), adamw()), 256, 512, "sqrt"), "Rescale the method alone"),
        (lambda: rescale("adamw", 256, 512, "sqrt"), "Expected a chain made by one method"),
    ],
)
def test_what_a_rule_does_not_cover_is_refused(make, message):
    with pytest.raises(FalllineError, match=message):
        make()


def test_every_method_of_a_rule_exists_and_scales_at_its_defaults():
    for rule, entries in RULES.items():
        for entry in entries:
            for name in entry.methods:
                made = fallline.METHODS[name]()
                after = rescale(made, 64, 128, rule, noise_scale=1000.0 if rule == "surge" else None)
                assert after.values["lr"] > made.values["lr"], (rule, name)
                known = {*entry.moves, *entry.keeps, *entry.zero}
                assert made.values.keys() <= known, (rule, name, made.values.keys() - known)


# -- momentum --------------------------------------------------------------------------------------------------------------


def test_momentum_is_corrected_where_the_rate_is_inside():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    for method, count in ((heavy_ball, 2), (lars, 2), (sgd, 0), (signsgd, 0)):
        values = {"momentum": 0.9} if "momentum" in method.hypers else {}
        optimizer = fallline.Optimizer([a, b], method(lr=0.1, **values))
        a.grad, b.grad = torch.ones(2), torch.ones(3)
        optimizer.step()
        before = {k: v.clone() for k, v in optimizer.state[a].items()}
        assert correct_momentum(optimizer, 2.0) == count
        for key, value in optimizer.state[a].items():
            assert torch.equal(value, before[key] * (2.0 if count and key == "momentum.m" else 1)), key
    with pytest.raises(FalllineError, match="at least 0"):
        correct_momentum(optimizer, -1.0)


# -- the recipe ------------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4)
        self.embedding, self.scale = nn.Embedding(5, 4), nn.Parameter(torch.ones(()))
        self.layer, self.head = nn.LayerNorm((2, 4)), nn.Linear(4, 2)  # a gain of two dimensions


def test_biases_gains_and_normalisation_do_not_decay():
    kept, plain = no_decay_groups(Net(), adamw(weight_decay=0.1))
    assert [name for name, _ in kept["params"]] == ["conv.weight", "embedding.weight", "head.weight"]
    assert len(plain["params"]) == 7
    assert plain["chain"].values["weight_decay"] == 0.0
    assert kept["chain"] == adamw(weight_decay=0.1)


def test_the_groups_make_an_optimizer_that_knows_names():
    model = Net()
    made = chain(clip_by_global_norm(1.0), sgd(lr=0.1, weight_decay=0.1))
    optimizer = fallline.Optimizer(no_decay_groups(model, made), made)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1, 0.0]
    assert optimizer.param_groups[1]["param_names"][:2] == ["scale", "conv.bias"]


def test_a_model_of_biases_alone_has_one_group():
    assert len(no_decay_groups(nn.LayerNorm(3), adamw())) == 1


def test_errors_of_the_recipe():
    with pytest.raises(FalllineError, match="has no weight_decay"):
        no_decay_groups(Net(), fallline.METHODS["sarah"]())
    with pytest.raises(FalllineError, match="got list instead of a model"):
        no_decay_groups(list(Net().parameters()), adamw())
    with pytest.raises(FalllineError, match="Expected a number, from which"):
        large_batch(sgd(lr=0.1 * warmup(3)), 256, 512, "linear", 10, cosine(10))
    with pytest.raises(FalllineError, match="at least one step of warm-up"):
        large_batch(sgd(lr=0.1), 256, 512, "linear", 0, cosine(10))


def test_the_recipe_with_an_equal_batch_has_a_level_warm_up():
    lr = large_batch(sgd(lr=0.1), 256, 256, "linear", warm=5, then=cosine(10)).values["lr"]
    assert [lr(t) for t in range(1, 7)] == pytest.approx([0.1] * 6)
