"""What every objective keeps to: buffers once, one dropout mask, nothing changed by pure calls, state saved and loaded."""

import copy

import pytest
import torch
from nets import OBJECTIVES, cross_entropy, data, net

from fallline import objectives as obj
from fallline.core.errors import FalllineError
from fallline.core.oracle import of_module

every = pytest.mark.parametrize("name", OBJECTIVES)


@every
def test_buffers_are_those_of_one_forward_pass(name):
    model = net()
    twin = copy.deepcopy(model)
    OBJECTIVES[name](cross_entropy(model)).backward(data())
    twin(data()[0])
    for (key, b), c in zip(model.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(b, c, msg=key)


@every
def test_random_numbers_go_on_as_after_one_forward_pass(name):
    model = net()
    twin = copy.deepcopy(model)
    torch.manual_seed(5)
    OBJECTIVES[name](cross_entropy(model)).backward(data())
    after = torch.rand(3)
    torch.manual_seed(5)
    twin(data()[0])
    assert torch.equal(after, torch.rand(3))


@every
def test_pure_calls_change_nothing_and_can_be_repeated(name):
    model = net()
    before = copy.deepcopy(model.state_dict())
    objective = OBJECTIVES[name](cross_entropy(model))
    state = objective.state_dict()
    torch.manual_seed(5)
    first = objective.value_and_grad(objective.params, data())
    torch.manual_seed(5)
    second = objective.value_and_grad(objective.params, data())
    assert first[0] == second[0]
    assert not first[0].requires_grad
    assert all(torch.equal(g, second[1][n]) and not g.requires_grad for n, g in first[1].items())
    assert list(first[1]) == list(objective.params)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(v, objective.state_dict()[k]) for k, v in state.items())
    assert all(p.grad is None for p in model.parameters())


# at these settings the second passes are taken where the first one is, and change nothing if they see the same mask
NEUTRAL = {
    "sam": lambda o: obj.sam(o, 0.0),
    "asam": lambda o: obj.asam(o, 0.0),
    "usam": lambda o: obj.usam(o, 0.0),
    "gsam": lambda o: obj.gsam(o, 0.0, 0.5),
    "esam": lambda o: obj.esam(o, 0.0, gamma=1.0),
    "dnsam": lambda o: obj.dnsam(o, [data(6, 2)], 0.0),
    "average": lambda o: obj.average_direction_sam(o, 0.0),
    "finite": lambda o: obj.finite_difference_penalty(o, 1e-9, step=1e-9),
}


@pytest.mark.parametrize("name", NEUTRAL)
def test_the_second_pass_sees_the_mask_of_the_first(name):
    oracle = cross_entropy(net())
    torch.manual_seed(5)
    plain = oracle.value_and_grad(oracle.params, data())
    torch.manual_seed(5)
    found = NEUTRAL[name](oracle).value_and_grad(oracle.params, data())
    for n, g in found[1].items():
        torch.testing.assert_close(g, plain[1][n], atol=1e-6, rtol=0)


def test_pcgrad_of_a_loss_with_itself_is_twice_it_under_dropout():
    oracle = cross_entropy(net())
    torch.manual_seed(5)
    plain = oracle.value_and_grad(oracle.params, data())[1]
    torch.manual_seed(5)
    twice = obj.several([oracle, oracle], obj.pcgrad).value_and_grad(oracle.params, data())[1]
    for n, g in twice.items():
        torch.testing.assert_close(g, 2 * plain[n])


STATEFUL = {
    "esam": (OBJECTIVES["esam"], "count"),
    "average": (OBJECTIVES["average_direction_sam"], "count"),
    "constrained": (OBJECTIVES["constrained"], "multipliers"),
    "bloop": (OBJECTIVES["bloop"], "mean"),
    "inside": (lambda o: obj.sam(OBJECTIVES["constrained"](o)), "inner.multipliers"),
    "spl_plus": (lambda o: obj.spl_plus(o, 0.5, 0.1, 0.1), "alpha"),
}


@pytest.mark.parametrize("name", STATEFUL)
def test_state_moves_with_steps_and_resumes(name):
    make, key = STATEFUL[name]
    model = net()
    if name == "spl_plus":
        model.eval()
    objective = make(cross_entropy(model))
    before = objective.state_dict().get(key)
    objective.backward(data())
    saved = objective.state_dict()
    assert before is None or not torch.equal(before, saved[key])
    other = make(cross_entropy(copy.deepcopy(model)))
    other.load_state_dict(saved)
    torch.manual_seed(6)
    expected = objective.value_and_grad(objective.params, data(seed=3))[1]
    torch.manual_seed(6)
    found = other.value_and_grad(other.params, data(seed=3))[1]
    assert all(torch.equal(g, found[n]) for n, g in expected.items())
    objective.backward(data())
    assert torch.equal(other.state_dict()[key], saved[key])  # a copy


def test_objectives_train_with_any_optimizer():
    import fallline

    for optimizer_of in (
        lambda m: torch.optim.SGD(m.parameters(), 0.1),
        lambda m: fallline.optim.AdamW(m.parameters(), lr=0.05),
    ):
        model = net().eval()
        objective = obj.sam(cross_entropy(model), 0.05)
        optimizer = optimizer_of(model)
        start = objective.loss(objective.params, data())
        for _ in range(30):
            optimizer.zero_grad()
            objective.backward(data())
            optimizer.step()
        optimizer.step(objective.closure(data()))
        assert objective.loss(objective.params, data()) < 0.7 * start


def test_criteria_with_one_number_for_each_example_serve_as_well():
    model = net().eval()
    oracle = of_module(model, obj.focal)
    expected = obj.focal(model(data()[0]), data()[1])
    torch.testing.assert_close(oracle.loss(oracle.params, data()), expected.mean())
    worst = obj.reduced(oracle, lambda x: obj.cvar(x, 0.75))
    torch.testing.assert_close(worst.loss(worst.params, data()), expected.topk(3).values.mean())


def test_an_oracle_of_another_module_is_refused():
    one, other = cross_entropy(net()), cross_entropy(net())
    with pytest.raises(FalllineError, match="of another module"):
        obj.constrained(one, [(other, 0.1)])
    with pytest.raises(FalllineError, match="2 oracles of 2 modules"):
        obj.several([one, other], obj.pcgrad)
    with pytest.raises(FalllineError, match="another module than the main one"):
        obj.bloop(one, other)


def test_objectives_in_an_order_that_would_lose_one_are_refused():
    oracle = cross_entropy(net())
    sharp = obj.sam(oracle)
    cases = [
        (
            lambda: obj.gradient_penalty(sharp, 0.1),
            "gradient_penalty differentiates the loss.*Ascent changes the gradient",
        ),
        (lambda: obj.constrained(obj.reduced(sharp, torch.mean), [(oracle, 1.0)]), "constrained differentiates"),
        (lambda: obj.constrained(oracle, [(sharp, 1.0)]), "constrained differentiates"),
        (lambda: obj.several([oracle, sharp], obj.pcgrad), "several differentiates"),
        (lambda: obj.idgm(obj.fish(oracle, 0.1), 0.1), "Fish changes the gradient"),
        (lambda: obj.spectral_decoupling(sharp, 0.1), "got the objective Ascent"),
        (lambda: obj.reduced(sharp, torch.mean).backward(data()), "Ascent has no losses of single examples"),
        (lambda: obj.by_class(obj.gradient_penalty(oracle, 0.1), 3).backward(data()), "Penalty has no losses"),
    ]
    for call, message in cases:
        with pytest.raises(FalllineError, match=message):
            call()


def test_multipliers_move_inside_another_objective():
    objective = OBJECTIVES["penalty of constrained"](cross_entropy(net()))
    objective.backward(data())
    assert float(objective.state_dict()["inner.multipliers"]) > 0
