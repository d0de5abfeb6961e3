"""Identities that the papers of the adaptive methods state, and the refusals of their options."""

import pytest
import torch

from fallline import METHODS, Optimizer
from fallline.methods import (
    adabound,
    adafactor,
    adam,
    adam_mini,
    adam_sn,
    adamomentum,
    adamp,
    adamw,
    ademamix,
    adopt,
    diffgrad,
    fadam,
    grams,
    heavy_ball,
    novograd,
    sgd,
    sgdp,
    sgdw,
)
from fallline.testing.harness import drive, gradients, parameters, same

SHAPES = ((4, 3), (5,))


def end(chain, steps=8, shapes=SHAPES, lrs=()):
    params = parameters(shapes, torch.float64)
    optimizer = Optimizer(params, chain)
    for t in range(1, steps + 1):
        if lrs:
            optimizer.param_groups[0]["lr"] = lrs[t - 1]
        drive(optimizer, (t,))
    return [p.detach() for p in params]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (heavy_ball(0.1, momentum=0.8), sgd(0.1, momentum=0.8)),
        (sgdw(0.1, momentum=0.0, weight_decay=0.2), sgd(0.1, weight_decay=0.2)),
        (sgdp(0.1, delta=0.0), sgd(0.1, momentum=0.9)),
        (adamp(0.1, delta=0.0, weight_decay=0.2), adamw(0.1, weight_decay=0.2)),
        (adabound(0.1, eps=0.0, gamma=1e-15, final_ratio=1.0), adam(0.1, eps=0.0)),
        (ademamix(0.1, alpha=0.0), adam(0.1)),
        (grams(0.1, b1=0.0), adam(0.1, b1=0.0)),
        (adamomentum(0.1, b1=0.0, b2=0.0, eps=1e-30), adam(0.1, b1=0.0, b2=0.0, eps=0.0)),
        (fadam(0.1, b1=0.0, eps=1e-30, weight_decay=0.0, max_rms=1e9), adam(0.1, b1=0.0, eps=0.0)),
    ],
    ids=["heavy-ball", "sgdw", "sgdp", "adamp", "adabound", "ademamix", "grams", "adamomentum", "fadam"],
)
def test_two_ways_to_the_same_steps(one, other):
    assert same(end(one), end(other), 1e-12)


def test_heavy_ball_is_not_sgd_when_lr_moves():
    lrs = [0.1, 0.1, 0.01, 0.01, 0.2, 0.2, 0.1, 0.1]
    assert not same(end(heavy_ball(0.1), lrs=lrs), end(sgd(0.1, momentum=0.9), lrs=lrs), 1e-3)


def test_shared_second_moments_of_one_element_are_adams():
    assert same(end(adam_mini(0.1), shapes=((6, 1), ())), end(adam(0.1), shapes=((6, 1), ())), 1e-12)
    assert same(end(adam_sn(0.1), shapes=((6,), ())), end(adam(0.1), shapes=((6,), ())), 1e-12)


def test_diffgrads_first_code_is_adam_at_half_its_rate():
    ours = end(diffgrad(0.1, variant="experiments"), steps=1)
    later = end(diffgrad(0.1, variant="experiments"), steps=8)
    first, last = end(adam(0.1), steps=1), end(adam(0.1), steps=8)
    moved = [a - b for a, b in zip(later, ours, strict=True)]
    assert same(moved, [0.5 * (a - b) for a, b in zip(last, first, strict=True)], 1e-12)


def test_adopts_first_gradient_only_starts_the_second_moment():
    p = parameters(((5,),), torch.float64)[0]
    g = gradients([p], 1)[0]
    start, optimizer = p.detach().clone(), Optimizer([p], adopt(0.1))
    p.grad = g
    optimizer.step()
    assert torch.equal(p, start)
    assert torch.equal(optimizer.state[p]["adopt.v"], g * g)
    p.grad = 0.5 * g
    optimizer.step()
    assert torch.allclose(start - p.detach(), 0.1 * 0.1 * 0.5 * g.sign())


def test_adafactor_keeps_vectors_whole_and_stacks_as_matrices():
    shapes = {(6,): ((6,), ()), (4, 3): ((4,), (3,)), (2, 4, 3): ((2, 4), (2, 3)), (): ((), ())}
    params = parameters(tuple(shapes), torch.float64)
    optimizer = Optimizer(params, adafactor(0.1))
    for p, expected in zip(params, shapes.values(), strict=True):
        state = optimizer.state[p]
        assert (state["factored_rms.r"].shape, state["factored_rms.c"].shape) == expected


def test_novograd_is_invariant_layer_by_layer():
    params = parameters(SHAPES, torch.float64)
    scaled = parameters(SHAPES, torch.float64)
    for factors, group in (((1.0, 1.0), params), ((1e3, 1e-3), scaled)):
        optimizer = Optimizer(group, novograd(0.1, eps=0.0))
        for t in range(1, 6):
            for p, g, f in zip(group, gradients(group, t), factors, strict=True):
                p.grad = f * g
            optimizer.step()
    assert same([p.detach() for p in params], [p.detach() for p in scaled], 1e-12)


@pytest.mark.parametrize(
    ("name", "option", "choices"),
    [("adabound", "variant", "authors"), ("amsbound", "variant", "paper"), ("diffgrad", "variant", "corrected")],
)
def test_unknown_variants_are_refused(name, option, choices):
    with pytest.raises(ValueError, match=rf"Unknown variant of {name} '{choices}x'\. Did you mean {choices}"):
        METHODS[name](**{option: f"{choices}x"})
    with pytest.raises(ValueError, match=r"Unknown decay_type of adafactor 'powr'\. Did you mean power"):
        adafactor(decay_type="powr")
