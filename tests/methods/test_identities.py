"""Identities between methods, and what their cards promise."""

import pytest
import torch

import fallline
from fallline import METHODS, Optimizer, chain
from fallline.lab.claims import ClaimLab, run_claim
from fallline.methods import adabelief, adam, adamw, amsgrad, lamb, lion, nesterov, radam, rmsprop, sgd
from fallline.testing.harness import drive, parameters, same
from fallline.transforms import clip_by_global_norm, clip_by_value, decay, descend, momentum


def end(c, steps=8):
    params = parameters(((4, 3), (5,)), torch.float64)
    drive(Optimizer(params, c), range(1, steps + 1))
    return [p.detach() for p in params]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nesterov(0.1, 0.8), sgd(0.1, momentum=0.8, nesterov=True)),
        (adam(0.1, weight_decay=0.2, decoupled_weight_decay=True), adamw(0.1, weight_decay=0.2)),
        (amsgrad(0.1), adam(0.1, amsgrad=True)),
        (adam(0.1, b1=0.0, b2=0.0, eps=0.0), chain(lion(0.1, b1=0.0))),  # both are sign descent
        (adamw(0.1, weight_decay=0.0), adam(0.1)),
        (sgd(0.1, momentum=0.9), chain(momentum(0.9), descend(0.1))),
    ],
    ids=["nesterov", "decoupled", "amsgrad", "sign", "adamw-without-decay", "sgd-is-its-parts"],
)
def test_two_ways_to_the_same_steps(one, other):
    assert same(end(one), end(other), 1e-12)


def test_adam_without_momentum_is_rmsprop_with_bias_correction():
    one = end(adam(0.1, b1=0.0, b2=0.9, eps=0.0), steps=1)
    other = end(rmsprop(0.1 * (1 - 0.9) ** 0.5, b2=0.9, eps=0.0), steps=1)
    assert same(one, other, 1e-12)


def test_adabelief_is_adam_when_the_prediction_is_zero():
    # with b1 = 1 - tiny the mean stays near zero on the first step, so the belief is g^2 as in Adam
    one, other = end(adabelief(0.1, b1=0.999999), steps=1), end(adam(0.1, b1=0.999999), steps=1)
    assert same(one, other, 1e-5)


def test_radams_variants_differ_only_where_rho_lies_between_4_and_5():
    early = end(radam(0.1, variant="paper"), steps=4), end(radam(0.1), steps=4)
    later = end(radam(0.1, variant="paper"), steps=5), end(radam(0.1), steps=5)
    assert same(*early)
    assert not same(*later, 1e-6)
    with pytest.raises(ValueError, match=r"Unknown variant of radam 'authers'\. Did you mean authors"):
        radam(variant="authers")


def test_lamb_moves_a_zero_tensor_by_the_plain_step():
    p = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    p.grad = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    Optimizer([p], lamb(0.1, eps=0.0)).step()
    assert torch.allclose(p.detach(), torch.tensor([-0.1, 0.1, -0.1], dtype=torch.float64))


def test_rprop_rests_where_the_sign_flips():
    p = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = fallline.optim.Rprop([p], lr=0.1)
    seen = []
    for g in ([1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0]):
        p.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
        seen.append(p.detach().tolist())
    assert seen[0] == pytest.approx([-0.1, -0.1])
    assert seen[1] == pytest.approx([-0.1, -0.22])  # the first rests, the second speeds up
    assert seen[2] == pytest.approx([-0.05, -0.364])  # and goes the other way with half its step


def test_clips_and_decay_in_closed_form():
    lab = ClaimLab()
    g = lab.gradient()

    def displacement(*steps):
        p = torch.nn.Parameter(lab.start())
        p.grad = g.clone()
        Optimizer([p], chain(*steps)).step()
        return p.detach() - lab.start()

    assert torch.allclose(displacement(clip_by_value(0.2), descend(1.0)), -g.clamp(-0.2, 0.2))
    assert torch.allclose(displacement(clip_by_global_norm(1e9), descend(1.0)), -g)
    assert torch.allclose(displacement(clip_by_global_norm(0.5), descend(1.0)), -0.5 * g / g.norm(), rtol=1e-5)
    assert torch.allclose(displacement(decay(0.3), descend(0.1)), -0.1 * (g + 0.3 * lab.start()))


CLAIMS = [(m, c) for m in METHODS.values() for c in m.claims]


@pytest.mark.parametrize(("method", "claim"), CLAIMS, ids=[f"{m.name}-{i}" for i, (m, _) in enumerate(CLAIMS)])
def test_claims_hold(method, claim):
    result = run_claim(method.name, claim)
    assert result.ok, result.detail
    assert result.seconds < 5


@pytest.mark.parametrize("method", METHODS.values(), ids=str)
def test_cards_are_complete(method):
    assert method.claims, "every method makes a claim"
    assert method.card.source
    assert method.card.title
    assert method.summary.endswith(".")
    assert ":math" in method.doc or ".. math" in method.doc
    assert next(iter(method.space)) == "lr"
    assert method.label in vars(fallline.optim)
