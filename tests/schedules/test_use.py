"""Schedules at work: any hyperparameter of an optimizer follows one, and torch's schedulers and ours stand in for each other."""

import pytest
import torch
from torch import nn

import fallline
from fallline.core.errors import FalllineError
from fallline.methods import adamw, heavy_ball, sgd
from fallline.schedules import cosine, from_torch, piecewise, to_torch, triangular, warmup, wsd


def train(optimizer, p, steps, after=lambda: None):
    path = []
    for t in range(steps):
        p.grad = torch.full_like(p, 1.0 + 0.1 * t)
        optimizer.step()
        after()
        path.append(p.detach().clone())
    return torch.stack(path)


def fresh():
    return nn.Parameter(torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("name", ["momentum", "weight_decay"])
def test_momentum_and_weight_decay_follow_schedules(name):
    schedule = piecewise((1, 0.1), (10, 0.9))
    a, b = fresh(), fresh()
    scheduled = fallline.Optimizer([a], sgd(lr=0.1, **{"momentum": 0.5, name: schedule}))
    by_hand = fallline.Optimizer([b], sgd(lr=0.1, **{"momentum": 0.5, name: schedule(1)}))
    seen, expected = [], []
    for t in range(1, 13):
        by_hand.param_groups[0][name] = schedule(t)
        seen.append(train(scheduled, a, 1))
        expected.append(train(by_hand, b, 1))
        assert scheduled.param_groups[0][name] == schedule(t)
    assert torch.allclose(torch.stack(seen), torch.stack(expected), rtol=1e-13)


def test_two_hypers_at_once_and_adams_betas():
    p = fresh()
    optimizer = fallline.Optimizer(
        [p], adamw(lr=0.1 * triangular(3), b1=0.8 + 0.1 * warmup(5), weight_decay=0.1 * cosine(8))
    )
    train(optimizer, p, 4)
    group = optimizer.param_groups[0]
    assert group["lr"] == pytest.approx(0.1 * triangular(3)(4))
    assert group["b1"] == pytest.approx(0.88)
    assert group["weight_decay"] == pytest.approx(0.1 * cosine(8)(4))


def test_a_schedule_that_leaves_the_domain_is_refused_at_the_step():
    p = fresh()
    optimizer = fallline.Optimizer([p], heavy_ball(lr=0.1, momentum=0.5 + 0.1 * warmup(1)))
    train(optimizer, p, 1)
    optimizer = fallline.Optimizer([p], heavy_ball(lr=0.1, momentum=0.5 * (1 + warmup(4))))
    with pytest.raises(FalllineError, match="momentum"):
        train(optimizer, p, 4)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_ours_drives_an_optimizer_of_torch(make):
    schedule = warmup(3) >> cosine(6)
    p = fresh()
    optimizer = make([p], lr=0.2)
    scheduler = to_torch(schedule, optimizer)
    for t in range(1, 13):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2 * schedule(t))
        train(optimizer, p, 1, scheduler.step)


def test_a_driven_sgd_equals_ours_with_the_schedule():
    a, b = fresh(), fresh()
    schedule = wsd(10, warm=3)
    theirs = torch.optim.SGD([a], lr=0.2, momentum=0.9)
    scheduler = to_torch(schedule, theirs)
    ours = fallline.Optimizer([b], sgd(lr=0.2 * schedule, momentum=0.9))
    assert torch.allclose(train(theirs, a, 12, scheduler.step), train(ours, b, 12), rtol=1e-13)


def test_a_resumed_scheduler_goes_on():
    schedule = warmup(3) >> cosine(6)
    p = fresh()
    first = torch.optim.SGD([p], lr=0.2)
    scheduler = to_torch(schedule, first)
    train(first, p, 4, scheduler.step)
    second = torch.optim.SGD([p], lr=0.2)
    resumed = to_torch(schedule, second)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    train(first, p, 1, scheduler.step)
    train(second, p, 1, resumed.step)
    assert second.param_groups[0]["lr"] == first.param_groups[0]["lr"] == pytest.approx(0.2 * schedule(6))


def test_theirs_in_an_optimizer_of_ours():
    found = from_torch(lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5), 4, lr=0.8)
    assert [found(t) for t in range(1, 6)] == pytest.approx([0.8, 0.4, 0.2, 0.1, 0.1])
    p = fresh()
    optimizer = fallline.Optimizer([p], sgd(lr=found))
    train(optimizer, p, 3)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2)


def test_what_is_no_schedule_is_refused():
    optimizer = torch.optim.SGD([fresh()], lr=0.1)
    with pytest.raises(FalllineError, match=r"Expected one of fallline\.schedules"):
        to_torch(lambda t: 1.0, optimizer)
    with pytest.raises(FalllineError, match="depends on the step alone"):
        from_torch(torch.optim.lr_scheduler.ReduceLROnPlateau, 10)
    with pytest.raises(FalllineError, match="got NoneType"):
        from_torch(lambda o: None, 10)
    with pytest.raises(FalllineError, match="num_steps=0"):
        from_torch(lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5), 0)
