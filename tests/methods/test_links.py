"""Links that gate other steps, draw random numbers, or are robust to outliers: closed forms, identities, refusals."""

import copy
import pickle

import pytest
import torch
from torch import nn

import fallline
from fallline import METHODS, Optimizer, chain
from fallline.core.execute import compiler_available
from fallline.core.random import normal_like
from fallline.core.rounding import stream_key
from fallline.schedules import warmup
from fallline.testing.harness import drive, gradients, parameters, same
from fallline.transforms import (
    add_noise,
    average,
    cautious,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_quantile,
    clip_by_value,
    decay,
    descend,
    every,
    masked,
    median_of_means,
    momentum,
    slow_weights,
    switch,
    track_median,
    winsorised_mean,
)

SHAPES = ((4, 3), (5,))
adam, adamw, sgd = (METHODS[name] for name in ("adam", "adamw", "sgd"))


def named(dtype=torch.float64, shapes=SHAPES):
    return [(name, p) for name, p in zip(("layer.weight", "layer.bias"), parameters(shapes, dtype), strict=True)]


def end(links, steps=8, dtype=torch.float64, start=1, **options):
    params = named(dtype)
    drive(Optimizer(params, links, **options), range(start, start + steps))
    return [p.detach() for _, p in params]


# -- noise --------------------------------------------------------------------------------------------------------------


def noise(t, eta=0.3, gamma=0.55, seed=0, name="layer.weight", shape=(4, 3), slot="add_noise.stream"):
    key = torch.tensor(stream_key(seed, f"{name}:{slot}"))
    return (eta / t**gamma) ** 0.5 * normal_like(torch.empty(shape, dtype=torch.float64), key, t)


def test_noise_has_the_moments_of_a_normal_and_no_correlation():
    n = 2**18
    x = torch.stack([normal_like(torch.empty(n, dtype=torch.float64), torch.tensor(7), t) for t in (1, 2)])
    assert abs(float(x.mean())) < 4 / (2 * n) ** 0.5
    assert abs(float(x.var()) - 1) < 4 * (1 / n) ** 0.5
    assert abs(float((x**4).mean()) - 3) < 4 * (96 / (2 * n)) ** 0.5
    assert abs(float((x[0] * x[1]).mean())) < 4 / n**0.5
    assert abs(float((x[0, 1:] * x[0, :-1]).mean())) < 4 / n**0.5
    inside = float((x.abs() < 1).double().mean())
    assert abs(inside - 0.6827) < 4 * (0.6827 * 0.3173 / (2 * n)) ** 0.5
    assert float(x.abs().max()) < 6.8


def test_noise_is_added_to_the_gradient_with_its_annealed_size():
    params = named()
    optimizer = Optimizer(params, chain(add_noise(0.3), descend(0.1)))
    x = [p.detach().clone() for _, p in params]
    for t in (1, 2, 3):
        drive(optimizer, (t,))
        grads = gradients([p for _, p in params], t)
        for i, (name, p) in enumerate(params):
            x[i] = x[i] - 0.1 * (grads[i] + noise(t, name=name, shape=p.shape))
    assert same([p.detach() for _, p in params], x, 1e-12)


def test_noise_depends_on_seed_and_name_and_on_nothing_else():
    links = chain(add_noise(0.3), sgd(0.1))
    one = end(links)
    assert same(one, end(links))
    assert not same(one, end(links, seed=1), 1e-3)
    (_, a), (_, b) = named()
    optimizer = Optimizer([("layer.bias", b), ("layer.weight", a)], links)  # another order
    for t in range(1, 9):
        a.grad, b.grad = gradients([a, b], t)
        optimizer.step()
    assert same(one, [a.detach(), b.detach()])
    twice = chain(add_noise(0.3), add_noise(0.3), descend(1.0))
    (first, _), start = end(twice, steps=1), named()[0][1].detach()
    both = noise(1) + noise(1, slot="add_noise_2.stream")
    assert torch.allclose(start - first - gradients([start], 1)[0], both)


def test_noise_goes_on_where_it_stopped():
    links = chain(add_noise(0.3), sgd(0.1))
    params = named()
    optimizer = Optimizer(params, links)
    drive(optimizer, range(1, 4))
    saved = copy.deepcopy(optimizer.state_dict())
    other = [(name, nn.Parameter(p.detach().clone())) for name, p in params]
    resumed = Optimizer(other, links, seed=5)  # the stream is part of the state
    resumed.load_state_dict(saved)
    torch.manual_seed(3)
    for run in (optimizer, resumed):
        drive(run, range(4, 7))
    assert same([p.detach() for _, p in params], [p.detach() for _, p in other])


# -- gates --------------------------------------------------------------------------------------------------------------


def test_masked_applies_where_the_name_or_the_parameter_matches():
    on, off = end(chain(sgd(0.1), decay(0.2))), end(sgd(0.1))
    for gate in (masked(decay(0.2), "*weight"), masked(decay(0.2), lambda p: p.dim() == 2)):
        found = end(chain(sgd(0.1), gate))
        assert same(found[:1], on[:1])
        assert same(found[1:], off[1:])
    assert same(end(masked(adamw(0.1), "*")), end(adamw(0.1)))
    both = masked(masked(momentum(0.9), lambda p: p.dim() == 1), "layer*")
    assert same(end(chain(both, descend(0.1))), end(chain(masked(momentum(0.9), "*bias"), descend(0.1))))
    assert same(end(chain(sgd(0.1), masked(decay(0.2), "head*"))), off)


def test_masked_keeps_state_at_rest_elsewhere_and_names_as_they_are():
    params = named()
    optimizer = Optimizer(params, chain(masked(momentum(0.9), "*bias"), descend(0.1 * warmup(4))))
    drive(optimizer, range(1, 4))
    assert not optimizer.state[params[0][1]]["momentum.m"].any()
    assert optimizer.state[params[1][1]]["momentum.m"].all()
    assert optimizer.param_groups[0]["momentum"] == 0.9
    assert repr(masked(decay(0.1), "*bias")) == "masked(Decay(weight_decay=0.1), '*bias')"


def test_a_masked_sum_runs_over_those_that_match():
    params = named()
    optimizer = Optimizer(params, chain(masked(clip_by_global_norm(0.5), "*weight"), descend(1.0)))
    before = [p.detach().clone() for _, p in params]
    drive(optimizer, (1,))
    g = gradients([p for _, p in params], 1)
    moved = [b - p.detach() for b, (_, p) in zip(before, params, strict=True)]
    assert torch.allclose(moved[0], 0.5 * g[0] / g[0].norm(), rtol=1e-5)
    assert torch.allclose(moved[1], g[1])


def test_a_masked_average_is_one_where_it_matches():
    params = named()
    optimizer = Optimizer(params, chain(sgd(0.1), masked(average(), "*weight")))
    drive(optimizer, range(1, 5))
    last = [p.detach().clone() for _, p in params]
    with fallline.averaged(optimizer):
        assert not torch.equal(params[0][1], last[0])
        assert torch.equal(params[1][1], last[1])


def test_every_takes_a_step_now_and_then_and_counts_its_own():
    params = named()
    optimizer = Optimizer(params, chain(every(3, METHODS["adam"](1.0, b1=0.5)), descend(0.1)))
    alone = Optimizer(other := named(), chain(adam(1.0, b1=0.5), descend(0.1)))
    for t in range(1, 10):
        before = [p.detach().clone() for _, p in params]
        drive(optimizer, (t,))
        moved = [b - p.detach() for b, (_, p) in zip(before, params, strict=True)]
        if t % 3:
            assert same(moved, [0.1 * g for g in gradients([p for _, p in params], t)], 1e-10)
        else:
            before = [p.detach().clone() for _, p in other]
            drive(alone, (t,))
            assert same(moved, [b - p.detach() for b, (_, p) in zip(before, other, strict=True)], 1e-10)
    assert same(end(every(1, adamw(0.1))), end(adamw(0.1)))


def test_switch_is_one_chain_and_then_another_that_has_watched():
    params = named()
    optimizer = Optimizer(params, switch(adam(0.1), sgd(0.05, momentum=0.9), at=3))
    x, m = [p.detach().clone() for _, p in params], [0.0, 0.0]
    early = end(adam(0.1), steps=3)
    for t in range(1, 8):
        drive(optimizer, (t,))
        grads = gradients(x, t)
        m = [0.9 * a + g for a, g in zip(m, grads, strict=True)]
        if t == 3:
            x = early
            assert same([p.detach() for _, p in params], x, 1e-12)
            held = optimizer.state[params[0][1]]["switch.first.adam.v"].clone()
        if t > 3:
            x = [a - 0.05 * b for a, b in zip(x, m, strict=True)]
            assert same([p.detach() for _, p in params], x, 1e-12)
    assert torch.equal(held, optimizer.state[params[0][1]]["switch.first.adam.v"])
    assert same(end(switch(adamw(0.1), adamw(0.1), at=4)), end(adamw(0.1)))
    assert optimizer.param_groups[0]["adam.lr"] == 0.1
    assert optimizer.param_groups[0]["sgd.lr"] == 0.05


GATES = [
    lambda: chain(add_noise(0.1), every(2, adamw(0.1 * warmup(3))), descend(0.5)),
    lambda: chain(switch(adamw(0.1), sgd(0.05, momentum=0.9), at=3), masked(cautious(), "*weight")),
    lambda: chain(masked(every(2, clip_by_norm(0.1)), "*weight"), switch(sgd(0.1), METHODS["lamb"](0.1), at=2)),
]


@pytest.mark.parametrize("make", GATES, ids=range(len(GATES)))
def test_gates_resume_and_copy(make):
    params = named()
    optimizer = Optimizer(params, make())
    drive(optimizer, range(1, 4))
    other = [(name, nn.Parameter(p.detach().clone())) for name, p in params]
    resumed = Optimizer(other, make())
    resumed.load_state_dict(optimizer.state_dict())
    copied = pickle.loads(pickle.dumps(copy.deepcopy(optimizer)))
    for run in (optimizer, resumed, copied):
        drive(run, range(4, 9))
    for run in (resumed, copied):
        assert same(*[[p.detach() for g in o.param_groups for p in g["params"]] for o in (optimizer, run)])


@pytest.mark.skipif(not compiler_available(), reason="no C++ compiler on this machine")
@pytest.mark.parametrize("fuse", ["leaf", "flat"])
@pytest.mark.parametrize("make", GATES, ids=range(len(GATES)))
def test_gates_compile_to_the_same_numbers(make, fuse):
    assert same(end(make(), fuse=fuse), end(make(), fuse="eager"), 1e-10)


def test_gates_are_edited_by_the_names_inside():
    params = named()
    optimizer = Optimizer(params, chain(every(2, decay(0.1)), descend(0.1)))
    optimizer.param_groups[0]["weight_decay"] = 0.3
    drive(optimizer, (1, 2))
    assert same([p.detach() for _, p in params], end(chain(every(2, decay(0.3)), descend(0.1)), steps=2))
    optimizer.param_groups[0]["weight_decay"] = -1.0
    with pytest.raises(ValueError, match=r"weight_decay=-1\.0\. Expected a finite number in \[0, inf\)"):
        drive(optimizer, (3,))


def test_gates_refuse_what_they_cannot_do():
    with pytest.raises(TypeError, match=r"masked\(\) got 3\. Expected a step or a chain\. Write"):
        masked(3, "*")
    with pytest.raises(TypeError, match=r"masked\(\) got which=3\. Expected a pattern of names or a function"):
        masked(decay(0.1), 3)
    with pytest.raises(ValueError, match=r"every got k=0\. Expected a whole number of steps, at least 1"):
        every(0, decay(0.1))
    with pytest.raises(ValueError, match=r"switch got at=2\.5\. Expected a whole number of steps"):
        switch(sgd(0.1), sgd(0.2), at=2.5)
    with pytest.raises(
        ValueError, match=r"clip_by_global_norm, which sums over all tensors\. Expected steps .* Place it"
    ):
        switch(chain(clip_by_global_norm(1.0), sgd(0.1)), sgd(0.1), at=2)
    with pytest.raises(ValueError, match=r"slow_weights, which averages the iterates\. Expected steps"):
        switch(sgd(0.1), chain(sgd(0.1), slow_weights()), at=2)
    for gate in (lambda c: masked(c, "*"), lambda c: every(2, c), lambda c: switch(sgd(0.1), c, at=2)):
        with pytest.raises(ValueError, match=r"got the step storm, for which .* more gradients.* Leave storm outside"):
            gate(METHODS["storm"]())
    with pytest.raises(
        ValueError, match=r"pattern '\*weight' got parameter 0 of group 0, which has no name\. Expected named"
    ):
        Optimizer(parameters(SHAPES), masked(clip_by_value(1.0), "*weight"))


# -- robust to outliers -------------------------------------------------------------------------------------------------


def test_the_share_of_largest_elements_is_clipped():
    g = torch.tensor([[5.0, -1.0, 2.0, -7.0, 0.5], [3.0, -0.1, 4.0, 0.0, -6.0]], dtype=torch.float64)

    def clipped(fraction, x=g):
        p = nn.Parameter(torch.zeros_like(x))
        p.grad = x.clone()
        Optimizer([p], clip_by_quantile(fraction)).step()
        return -p.detach()

    assert torch.equal(clipped(0.3), g.clamp(-4, 4))  # 7, 6 and 5 are
    assert torch.equal(clipped(0.0), g)
    assert torch.equal(clipped(0.09), g)  # less than one of ten
    assert torch.equal(clipped(0.1, g[0, 0]), g[0, 0])
    assert torch.equal(clipped(0.9), g.clamp(-0.0, 0.0))
    for bad in (1.0, -0.1, True, "all"):
        with pytest.raises(ValueError, match=r"Expected a share of the elements in \[0, 1\)\. Write for example clip"):
            clip_by_quantile(bad)


def huber(x, mu):
    return x * x / (2 * mu) if x < mu else x - mu / 2


@pytest.mark.parametrize("mu", [0.0, 0.4])
@pytest.mark.parametrize("of", ["elements", "tensors"])
def test_the_median_takes_proximal_steps(of, mu):
    tau, m = 0.3, torch.zeros(5, dtype=torch.float64)
    p = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    optimizer = Optimizer([p], track_median(tau, mu, of))
    for t in range(1, 7):
        before = p.detach().clone()
        (g,) = gradients([p], t, scale=0.1 if t == 2 else 1.0)
        p.grad = g.clone()
        optimizer.step()
        found = before - p.detach()
        pairs = zip(found, m, g, strict=True) if of == "elements" else [(found, m, g)]
        for new, old, x in pairs:  # on the way from old to x, by brute force
            share = torch.linspace(0, 1, 20001, dtype=torch.float64)
            d = float((x - old).norm())
            objective = [huber(abs(1 - s) * d, mu) + (s * d) ** 2 / (2 * tau) for s in share.tolist()]
            best = float(share[objective.index(min(objective))])
            assert torch.allclose(new, old + best * (x - old), atol=1e-4 * d)
        m = found


def test_one_outlier_moves_the_median_by_tau():
    for of in ("elements", "tensors"):
        steady, p = torch.ones(4, dtype=torch.float64), nn.Parameter(torch.zeros(4, dtype=torch.float64))
        optimizer, places = Optimizer([p], track_median(0.1, 0.0, of)), []
        for t in range(60):
            before = p.detach().clone()
            p.grad = 1e6 * steady if t == 40 else steady.clone()
            optimizer.step()
            places.append(before - p.detach())
        assert torch.allclose(places[39], steady)
        assert float((places[40] - steady).norm()) <= 0.1 * 2 + 1e-12
        assert torch.allclose(places[-1], steady)
    with pytest.raises(ValueError, match=r"Unknown of in track_median 'element'\. Did you mean elements"):
        track_median(of="element")


def test_robust_means():
    stack = torch.stack(gradients(parameters(((4, 3),) * 9, torch.float64), 1))
    assert torch.allclose(winsorised_mean(stack, 0), stack.mean(0))
    assert torch.allclose(winsorised_mean(stack, 4), stack.median(0).values)
    by_hand = [sorted(stack[:, i, j].tolist()) for i in range(4) for j in range(3)]
    by_hand = [sum([x[2], x[2], *x[2:7], x[6], x[6]]) / 9 for x in by_hand]
    assert torch.allclose(winsorised_mean(stack, 2).flatten(), torch.tensor(by_hand, dtype=torch.float64))
    assert torch.allclose(median_of_means(stack, 1), stack.mean(0))
    assert torch.allclose(median_of_means(stack, 9), stack.median(0).values)
    assert torch.allclose(median_of_means(stack), torch.stack([s.mean(0) for s in stack.split(3)]).median(0).values)
    assert torch.allclose(median_of_means(stack[:8], 2), stack[:8].mean(0))
    broken = stack.clone()
    broken[0] = 1e9
    assert float((winsorised_mean(broken, 1) - winsorised_mean(stack, 1)).abs().max()) < 1
    with pytest.raises(ValueError, match=r"c=5 for 9 gradients\. Expected a whole number with 0 <= 2 c < 9\. Pass"):
        winsorised_mean(stack, 5)
    with pytest.raises(ValueError, match=r"k=2 for 9 gradients\. Expected a number of groups that divides 9\. Pass"):
        median_of_means(stack, 2)
