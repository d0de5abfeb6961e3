"""Schedules: closed forms, joining, scaling, and equality with torch's schedulers."""

import math

import pytest
import torch

from fallline.schedules import constant, cosine, cosine_restarts, exponential, step_decay, warmup


def torch_values(make, steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


lr_scheduler = torch.optim.lr_scheduler


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (step_decay(7, 0.3), lambda o: lr_scheduler.StepLR(o, 7, 0.3)),
        (exponential(0.9), lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
        (cosine(40, floor=0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, 40, eta_min=0.1)),
        (cosine_restarts(10, 2.0), lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 10, 2)),
    ],
    ids=["step", "exponential", "cosine", "restarts"],
)
def test_equals_torch(ours, theirs):
    assert [ours(t) for t in range(1, 41)] == pytest.approx(torch_values(theirs, 40), rel=1e-9, abs=1e-12)


def test_warmup_reaches_its_peak_at_its_last_step_and_holds_it():
    assert [warmup(4)(t) for t in range(1, 7)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_joining_counts_the_second_schedule_from_its_own_first_step():
    joined = 3e-4 * (warmup(10) >> constant(5) >> cosine(20))
    assert joined.length == 35
    assert joined(10) == joined(15) == joined(16) == 3e-4
    assert joined(35) == pytest.approx(3e-4 * 0.5 * (1 + math.cos(math.pi * 19 / 20)))
    assert joined(1000) == joined(35)
    assert (warmup(2) * 2)(2) == 2.0


def test_repr_reads_as_written():
    assert repr(0.1 * (warmup(2) >> cosine(3))) == "0.1 * (warmup(num_steps=2) >> cosine(num_steps=3, floor=0.0))"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: constant() >> cosine(5), r"it never ends\..*constant\(100\)"),
        (lambda: warmup(0), r"warmup\(0\) has no length\. Expected a whole number"),
        (lambda: cosine(2.5), r"cosine\(2\.5\) has no length"),
        (lambda: step_decay(0), r"never takes a step"),
        (lambda: exponential(1.5), r"does not decay"),
        (lambda: cosine_restarts(10, 0.5), r"would shrink away"),
        (lambda: warmup(5)(0), r"Steps count from 1"),
    ],
)
def test_errors(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_only_numbers_scale_and_only_schedules_follow():
    with pytest.raises(TypeError):
        warmup(3) * "2"
    with pytest.raises(TypeError):
        warmup(3) >> 2
