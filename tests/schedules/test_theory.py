"""The convex bound against its formula term by term, real descent under it, and regret-optimal rates against a numerical optimum."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from fallline.core.errors import FalllineError
from fallline.schedules import (
    best_cooldown,
    constant,
    cosine,
    last_iterate_bound,
    polynomial,
    tabulated,
    tracking_rates,
    transfer_lr,
    warmup,
    wsd,
)


def naive(rates, distance, gradients):
    n = len(rates)
    total = (distance**2 + sum((r * g) ** 2 for r, g in zip(rates, gradients, strict=True))) / (2 * sum(rates))
    for k in range(n - 1):
        noise = sum((rates[t] * gradients[t]) ** 2 for t in range(k, n))
        total += 0.5 * rates[k] / sum(rates[k + 1 :]) * noise / sum(rates[k:])
    return total


@pytest.mark.parametrize("schedule", [constant(), cosine(40), wsd(40, warm=5), 0.3 * (warmup(10) >> polynomial(30))])
def test_the_bound_is_the_formula(schedule):
    rates = [schedule(t) for t in range(1, 41)]
    gradients = list(np.linspace(2.0, 0.5, 40))
    assert last_iterate_bound(schedule, 40, 1.7, gradients).value == pytest.approx(
        naive(rates, 1.7, gradients), rel=1e-12
    )


def test_the_best_rate_is_the_minimum():
    bound = last_iterate_bound(cosine(100), 100, 2.0, 3.0)
    assert bound.best == pytest.approx(bound.at(bound.best_lr))
    assert bound.best < min(bound.at(0.9 * bound.best_lr), bound.at(1.1 * bound.best_lr))
    assert last_iterate_bound(bound.best_lr * cosine(100), 100, 2.0, 3.0).value == pytest.approx(bound.best)


@pytest.mark.parametrize("make", [polynomial, cosine, wsd])
def test_descent_on_an_absolute_value_stays_under_the_bound(make):
    steps, start = 200, 3.0
    for gamma in (0.01, 0.1, 1.0):
        x = start
        for t in range(1, steps):  # the bound is for x_T, which T - 1 steps reach
            x -= gamma * make(steps)(t) * np.sign(x)
        assert abs(x) <= last_iterate_bound(gamma * make(steps), steps, start).value


def test_best_cooldown_at_a_given_rate():
    steps = 300
    tuned = last_iterate_bound(wsd(steps, 0.2), steps).best_lr
    shares = [i / 100 for i in range(101)]
    sizes = [last_iterate_bound(tuned * wsd(steps, s), steps).value for s in shares]
    assert best_cooldown(steps, lr=tuned) == shares[int(np.argmin(sizes))]
    assert 0.1 < best_cooldown(steps, lr=tuned) < 0.9


def test_transfer_to_another_shape_and_horizon():
    before, after = (cosine(400), 400), (wsd(800), 800)
    ratio = last_iterate_bound(*after).best_lr / last_iterate_bound(*before).best_lr
    assert transfer_lr(3e-3, before, after) == pytest.approx(3e-3 * ratio)
    assert transfer_lr(3e-3, before, before) == pytest.approx(3e-3)


def test_the_bound_refuses_schedules_that_stand_still_at_the_end():
    with pytest.raises(FalllineError, match="a last one above 0"):
        last_iterate_bound(tabulated([1.0, 0.0]), 2)
    with pytest.raises(FalllineError, match="no negative rate"):
        last_iterate_bound(tabulated([-1.0, 1.0]), 2)
    with pytest.raises(FalllineError, match="distance=0"):
        last_iterate_bound(constant(), 2, distance=0)


# -- drift -----------------------------------------------------------------------------------------------------------------


def regret(rates, drift, dim, noise, batch):
    v, total = 1.0, 0.0
    for rate, moved in zip(rates, drift, strict=True):
        total += v / 2
        v = v * (1 - 2 * rate + (1 + (dim + 1) / batch) * rate**2) + noise * dim / batch * rate**2 + moved**2
    return total


def test_the_rates_minimise_the_regret_of_all_steps_together():
    drift, args = [0.0, 0.5, 0.0, 1.0, 0.1, 0.0], (3, 0.4, 2)
    found = tracking_rates(drift, *args)
    best = minimize(lambda r: regret(r, drift, *args), np.full(6, 0.1), method="BFGS", options={"gtol": 1e-9})
    assert found.regret == pytest.approx(regret(found.rates, drift, *args), rel=1e-12)
    assert found.regret <= best.fun + 1e-9
    assert found.rates[:-1] == pytest.approx(best.x[:-1], abs=1e-3)  # the last one is used by nobody


def test_tracking_beats_a_decaying_rate_on_drawn_data():
    dim, batch, noise, steps, runs = 5, 4, 0.3, 200, 64
    drift = [0.15] * steps
    rng = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    def run(rates):
        rng.manual_seed(1)
        at, home, total = torch.zeros(runs, dim, dtype=torch.float64), draw(runs, dim) / dim**0.5, 0.0
        for rate, moved in zip(rates, drift, strict=True):
            total += float((at - home).square().sum(1).mean()) / 2
            x = draw(runs, batch, dim)
            residual = torch.einsum("rbd,rd->rb", x, at - home) - noise**0.5 * draw(runs, batch)
            at = at - rate * (residual[..., None] * x).mean(1)
            home = home + moved * draw(runs, dim) / dim**0.5
        return total

    found = tracking_rates(drift, dim, noise, batch)
    ours, decayed = run(found.rates), run([found.rates[0] / t**0.5 for t in range(1, steps + 1)])
    assert ours == pytest.approx(found.regret, rel=0.1)
    assert ours < 0.8 * decayed


def test_the_rates_are_a_schedule():
    found = tracking_rates([0.1] * 20, dim=2, noise=0.1)
    assert [found.schedule(t) for t in range(1, 21)] == list(found.rates)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 2, 1.0), "a drift for every step"),
        (([-1.0], 2, 1.0), "Expected neither negative"),
        (([0.0], 2, -1.0), "Expected neither negative"),
        (([0.0], 0, 1.0), "dim=0"),
        (([0.0], 1, 1.0, 0), "batch=0"),
    ],
)
def test_tracking_errors(arguments, message):
    with pytest.raises(FalllineError, match=message):
        tracking_rates(*arguments)
