"""Properties that hold for every chain: checked on random shapes, hyperparameters and gradients."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fallline import METHODS, Optimizer, chain
from fallline.core.types import Reach
from fallline.schedules import constant, cosine, warmup
from fallline.testing.harness import drive, parameters, same, tuned
from fallline.transforms import clip_by_global_norm, descend

elementwise = st.sampled_from([m for m in METHODS.values() if m.reach == Reach.ELEMENT and not m().needs])
sizes = st.integers(1, 7)


def steps_of(method, p, grads):
    leaf = nn.Parameter(p.clone())
    optimizer = Optimizer([leaf], tuned(method))
    for g in grads:
        leaf.grad = g.clone()
        optimizer.step()
    return leaf.detach()


@settings(max_examples=40, deadline=None)
@given(elementwise, sizes, sizes, st.integers(0, 10**6), st.floats(-6, 6))
def test_an_elementwise_method_commutes_with_any_permutation(method, rows, columns, seed, exponent):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(rows, columns, generator=generator, dtype=torch.float64)  # noqa: E731
    p, grads = draw(), [draw() * 10.0**exponent for _ in range(3)]
    order = torch.randperm(rows * columns, generator=generator)
    whole = steps_of(method, p, grads).flatten()[order]
    mixed = steps_of(method, p.flatten()[order], [g.flatten()[order] for g in grads])
    assert torch.allclose(whole, mixed, rtol=1e-13, atol=1e-15)


@settings(max_examples=40, deadline=None)
@given(st.lists(sizes, min_size=1, max_size=5), st.floats(1e-3, 1e3), st.floats(1e-6, 1e6))
def test_a_clipped_step_is_never_longer_than_the_bound(shape, bound, scale):
    params = parameters([(n,) for n in shape], torch.float64)
    start = [p.detach().clone() for p in params]
    drive(Optimizer(params, chain(clip_by_global_norm(bound), descend(1.0))), (1,), flip=scale)
    moved = torch.cat([p.detach() - q for p, q in zip(params, start, strict=True)])
    assert float(moved.norm()) <= bound * (1 + 1e-9)


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 200), st.floats(1e-6, 10.0))
def test_schedules_stay_between_zero_and_their_peak(rise, fall, t, peak):
    schedule = peak * (warmup(rise) >> constant(3) >> cosine(fall))
    assert 0 <= schedule(t) <= peak * (1 + 1e-12)
    assert schedule.length == rise + 3 + fall


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 3))
def test_a_checkpoint_taken_anywhere_continues_the_run(before, after, pick):
    method = list(METHODS.values())[pick * 5]
    straight = parameters(((3, 2), (4,)))
    drive(Optimizer(straight, tuned(method)), range(1, before + after + 1))
    first = parameters(((3, 2), (4,)))
    optimizer = Optimizer(first, tuned(method))
    drive(optimizer, range(1, before + 1))
    second = [nn.Parameter(p.detach().clone()) for p in first]
    resumed = Optimizer(second, tuned(method))
    resumed.load_state_dict(optimizer.state_dict())
    drive(resumed, range(before + 1, before + after + 1))
    assert same([p.detach() for p in straight], [p.detach() for p in second])
