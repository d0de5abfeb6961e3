"""Objectives one by one where a claim does not reach: against other code, finite differences, and words of errors."""

import pytest
import torch
import torch.nn.functional as F
from nets import OBJECTIVES, cross_entropy, data, net

import fallline
from fallline import objectives as obj
from fallline.core.errors import FalllineError
from fallline.core.oracle import of_loss
from fallline.objectives.base import flat
from fallline.schedules import constant
from fallline.transforms import clip_by_global_norm


def test_sam_is_two_steps_by_hand():
    model, (x, y) = net().eval(), data()
    F.cross_entropy(model(x), y).backward()
    grads = [p.grad.clone() for p in model.parameters()]
    size = torch.stack([g.norm() for g in grads]).norm()
    objective = obj.sam(cross_entropy(model), 0.3)
    found = objective.value_and_grad(objective.params, (x, y))[1]
    with torch.no_grad():
        for p, g in zip(model.parameters(), grads, strict=True):
            p += 0.3 * g / size
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    for n, p in model.named_parameters():
        torch.testing.assert_close(found[n], p.grad)


def test_sam_in_training_mode_uses_the_batch_but_keeps_its_statistics():
    model = net()
    model[3].p = 0.0
    objective = obj.sam(cross_entropy(model), 0.3)
    params, (x, y) = objective.params, data()
    near = obj.base.moved(params, objective.step(params, objective.inner.value_and_grad(params, (x, y))[1]), 0.3)
    expected = objective.inner.value_and_grad(near, (x, y))[1]
    objective.backward((x, y))
    for n, p in params.items():
        torch.testing.assert_close(p.grad, expected[n])


def test_rho_may_follow_a_schedule():
    oracle = cross_entropy(net().eval())
    objective = obj.sam(oracle, 0.5)
    objective.rho = 0.0
    g = objective.value_and_grad(oracle.params, data())[1]
    assert torch.equal(flat(g), flat(oracle.value_and_grad(oracle.params, data())[1]))


def test_a_gradient_of_zero_stays_finite():
    model = net().eval()
    oracle = of_loss(model, lambda m, b: 0.0 * m(b[0]).sum())
    for name in ("sam", "asam", "gsam", "dnsam", "bloop", "dynamic_barrier"):
        if name == "dnsam":
            objective = obj.dnsam(oracle, [data()])
        elif name in ("bloop", "dynamic_barrier"):
            objective = getattr(obj, name)(oracle, cross_entropy(model))
        else:
            objective = getattr(obj, name)(oracle)
        assert all(bool(g.isfinite().all()) for g in objective.value_and_grad(oracle.params, data())[1].values())
    nothing = obj.several([oracle, oracle], obj.pcgrad)
    assert float(flat(nothing.value_and_grad(oracle.params, data())[1]).abs().max()) == 0
    flatly = obj.gradient_penalty(oracle, 1.0, power=1).value_and_grad(oracle.params, data())[1]
    assert bool(flat(flatly).isfinite().all())


@pytest.mark.parametrize("name", ["gradient_penalty", "implicit_penalty", "spectral_decoupling", "constrained", "term"])
def test_gradients_are_those_of_the_loss_by_finite_differences(name):
    model = net().eval()
    objective = OBJECTIVES[name](cross_entropy(model))
    params = objective.params
    g = objective.value_and_grad(params, data())[1]
    made = torch.Generator().manual_seed(0)
    way = {n: torch.randn(p.shape, generator=made, dtype=p.dtype) for n, p in params.items()}
    up, down = (float(objective.loss(obj.base.moved(params, way, s), data()).detach()) for s in (1e-5, -1e-5))
    assert (up - down) / 2e-5 == pytest.approx(float(obj.base.dot(g, way)), rel=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_reaches_the_optimizer(bad):
    oracle = cross_entropy(net().eval())
    (x, y), worst = data(), obj.superquantile(12, 0.5)
    x[0, 0] = bad
    objectives = [
        *(obj.by_class(oracle, 3, rule) for rule in (obj.pcgrad, obj.config, obj.imtl, obj.normalised)),
        obj.sam(oracle),
        obj.gsam(oracle),
        obj.bloop(oracle, oracle),
        *(obj.reduced(oracle, f) for f in (lambda l: obj.term(l, -1.0), lambda l: obj.chi_square_dro(l, 0.1))),
        *(obj.reduced(oracle, f) for f in (lambda l: obj.kl_dro(l, 0.1), lambda l: obj.cvar(l, 0.5))),
        *(obj.reduced(oracle, lambda l, nu=nu: obj.spectral(l, worst, nu)) for nu in (0.0, 0.1)),
    ]
    for i, objective in enumerate(objectives):
        found = flat(objective.value_and_grad(oracle.params, (x, y))[1])
        assert not bool(found.isfinite().all()), i


def test_classes_that_a_batch_lacks_are_left_out():
    oracle = cross_entropy(net().eval())
    x, y = data()
    objective = obj.by_class(oracle, 7)
    values, rows = objective.rows(oracle.params, (x, y))
    assert values.shape == (7,)
    assert float(rows[3:].abs().max()) == 0
    for c in range(3):
        expected = oracle.value_and_grad(oracle.params, (x[y == c], y[y == c]))
        torch.testing.assert_close(values[c], expected[0])
        torch.testing.assert_close(rows[c], flat(expected[1]))
    assert float(flat(objective.value_and_grad(oracle.params, (x, y))[1]).norm()) <= 3


def test_labels_are_found_where_they_are():
    oracle = cross_entropy(net().eval())
    x, y = data()
    by_sign = obj.by_class(oracle, 2, labels=lambda batch: (batch[0][:, 0] > 0).long())
    values, _ = by_sign.rows(oracle.params, (x, y))
    chosen = x[:, 0] > 0
    torch.testing.assert_close(values[1], oracle.loss(oracle.params, (x[chosen], y[chosen])).detach())


@pytest.mark.parametrize("rule", [obj.pcgrad, obj.config, obj.imtl, obj.normalised])
def test_rules_bear_parallel_and_single_gradients(rule):
    g = torch.tensor([[1.0, 2.0, 0.0]], dtype=torch.float64)
    assert bool((rule(g) @ g[0]) > 0)
    both = rule(torch.cat([g, 3 * g]))
    assert bool(both.isfinite().all())
    torch.testing.assert_close(both / both.norm(), g[0] / g.norm())


def test_three_gradients_by_pcgrad_as_written_in_the_paper():
    g = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    total = torch.zeros(5, dtype=torch.float64)
    for i in range(3):
        own = g[i].clone()
        for j in range(3):
            if i != j and own @ g[j] < 0:
                own = own - (own @ g[j]) / g[j].norm() ** 2 * g[j]
        total += own
    torch.testing.assert_close(obj.pcgrad(g), total)


def test_fish_walks_through_the_domains():
    model = net().eval()
    oracle = cross_entropy(model)
    parts = [data(6, 1), data(6, 2), data(6, 3)]
    walk = obj.fish(oracle, 0.1)
    value, g = walk.value_and_grad(oracle.params, parts)
    start = {n: p.detach().clone() for n, p in oracle.params.items()}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for x, y in parts:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    for n, p in model.named_parameters():
        torch.testing.assert_close(g[n], (start[n] - p.detach()) / 0.3)
    assert walk.num_examples(parts) == 18
    assert value > 0


def test_spl_plus_on_a_batch_is_the_mean_of_its_examples():
    model = net().eval()
    oracle = cross_entropy(model)
    x, y = data()
    whole = obj.spl_plus(oracle, 0.5, 0.1, 0.1, alpha=1.0).value_and_grad(oracle.params, (x, y))[1]
    single = [
        obj.spl_plus(oracle, 0.5, 0.1, 0.1, alpha=1.0).value_and_grad(oracle.params, (x[i : i + 1], y[i : i + 1]))[1]
        for i in range(12)
    ]
    for n, g in whole.items():
        torch.testing.assert_close(g, torch.stack([s[n] for s in single]).mean(0))


def test_full_batch_recipe_trains():
    model = net(torch.float64).eval()
    batches = [data(12, 1), data(6, 2)]
    objective = obj.accumulated(obj.finite_difference_penalty(cross_entropy(model), weight=0.05))
    optimizer = fallline.Optimizer(model, fallline.chain(clip_by_global_norm(0.25), fallline.METHODS["sgd"](lr=0.1)))
    before = objective.loss(objective.params, batches)
    for _ in range(20):
        optimizer.zero_grad()
        objective.backward(batches)
        optimizer.step()
    assert objective.loss(objective.params, batches) < before
    assert objective.num_examples(batches) == 18


def test_batches_by_temperature_cool_and_resume():
    domains = torch.repeat_interleave(torch.arange(2), torch.tensor([900, 100]))
    cooling = 1e9 * constant(100) >> constant()
    batches = obj.TemperatureBatches(domains, batch_size=100, num_batches=100, tau=cooling)
    assert len(batches) == 100
    shares = [
        torch.tensor([domains[i] for i in torch.tensor(list(batches)).flatten()]).double().mean() for _ in range(2)
    ]
    assert shares[0] == pytest.approx(0.5, abs=0.02)
    assert shares[1] == pytest.approx(0.1, abs=0.02)
    resumed = obj.TemperatureBatches(domains, batch_size=100, num_batches=100, tau=cooling)
    resumed.load_state_dict({"drawn": 100})
    fresh = obj.TemperatureBatches(domains, batch_size=100, num_batches=100, tau=cooling)
    list(fresh)
    assert fresh.state_dict() == {"drawn": 100}
    assert next(iter(resumed)) == next(iter(fresh))


def test_sampled_and_weighted_losses_have_the_same_mean():
    sizes = [900, 100]
    torch.testing.assert_close(
        obj.domain_weights(sizes, 3.0) * torch.tensor([0.9, 0.1], dtype=torch.float64), obj.temperature(sizes, 3.0)
    )


def test_what_is_wrong_is_said():
    oracle = cross_entropy(net().eval())
    cases = [
        (lambda: obj.sam(oracle, -0.1), r"rho is -0.1. Expected a finite number of at least 0. Pass for example rho="),
        (lambda: obj.asam(oracle, eta=float("nan")), "eta is nan"),
        (lambda: obj.esam(oracle, beta=0.0), "beta is 0.0. Expected a finite number above 0 and at most 1"),
        (lambda: obj.esam(oracle, gamma=1.5), "gamma is 1.5"),
        (lambda: obj.gradient_penalty(oracle, 0.1, power=3), "power is 3"),
        (lambda: obj.finite_difference_penalty(oracle, 0.1, difference="central"), "difference is 'central'"),
        (lambda: obj.constrained(oracle, []), "got no limits"),
        (lambda: obj.temperature([3, 0], 1.0), r"sizes of the domains are \[3.0, 0.0\]"),
        (lambda: obj.fish(oracle, 0.1).loss(oracle.params, data()), "Expected a list with a batch of each domain"),
        (lambda: obj.accumulated(oracle).value_and_grad(oracle.params, []), "an empty sequence"),
        (lambda: obj.extremile(4, 0.5), "r is 0.5"),
    ]
    for call, message in cases:
        with pytest.raises(FalllineError, match=message):
            call()
