"""Methods that look elsewhere against their naive twins, on a finite sum that is not quadratic, and the papers' identities."""

from functools import partial

import numpy as np
import pytest
import torch

from fallline import METHODS, Optimizer, chain
from fallline.core.execute import compiler_available
from fallline.testing.harness import parameters
from fallline.transforms import correct, descend, momentum
from fallline.transforms.random_scaling import uniform
from methods.twins import variance as twins

SHAPES = ((4, 3), (5,), ())
NUM_BATCHES, STEPS = 4, 25


class Problem:
    """Means of log cosh of linear forms: every batch has its own curvature and its own minimum."""

    sizes = [int(np.prod(s)) for s in SHAPES]

    def __init__(self, scale=1.0):
        self.scale = scale
        made = np.random.default_rng(0)
        size = sum(self.sizes)
        self.a = made.normal(size=(NUM_BATCHES, 6, size)) / 2
        self.b = made.normal(size=(NUM_BATCHES, 6))
        self.order = made.integers(NUM_BATCHES, size=10 * STEPS)

    def batch(self, t):
        return int(self.order[t])

    def loss(self, i, x):
        return self.scale * float(np.log(np.cosh(self.a[i] @ x - self.b[i])).sum())

    def grad(self, i, x):
        return self.scale * self.a[i].T @ np.tanh(self.a[i] @ x - self.b[i])

    def full(self, x):
        return np.mean([self.grad(i, x) for i in range(NUM_BATCHES)], 0)


CASES = [
    ("storm", {"lr": 0.7, "w": 0.3, "c": 2.0}),
    ("svrg", {"lr": 0.1, "every": 7}),
    ("sarah", {"lr": 0.1, "every": 7}),
    ("spider", {"lr": 0.05, "every": 7, "exponent": 1.0}),
    ("spider", {"lr": 0.05, "every": 7, "exponent": 0.5}),
    ("saga", {"lr": 0.05, "num_batches": NUM_BATCHES}),
    ("extragradient", {"lr": 0.1, "ahead": 1.5}),
    ("optimistic_gradient", {"lr": 0.05, "optimism": 0.8}),
    ("armijo_sgd", {"lr": 3.0, "c": 0.3, "shrink": 0.7, "growth": 1.5}),
    *[
        ("mars_adamw", {"lr": 0.05, "b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.1, "gamma": 0.3, "exact": e})
        for e in (False, True)
    ],
    *[("mars_lion", {"lr": 0.01, "b1": 0.8, "weight_decay": 0.1, "gamma": 0.3, "exact": e}) for e in (False, True)],
]


def filled(params, value, gradient):
    def closure():
        x = torch.cat([p.detach().flatten() for p in params]).numpy()
        for p, g in zip(params, torch.from_numpy(gradient(x)).split(Problem.sizes), strict=True):
            p.grad = g.reshape(p.shape).clone()
        return torch.tensor(value(x))

    return closure


def ours(made, fuse="eager", steps=STEPS, scale=1.0):
    problem, params = Problem(scale), parameters(SHAPES, torch.float64)
    optimizer = Optimizer(params, made, fuse=fuse)

    for t in range(1, steps + 1):
        i = problem.batch(t)
        closure = filled(params, partial(problem.loss, i), partial(problem.grad, i))
        optimizer.step(closure, full=filled(params, lambda x: 0.0, problem.full), batch=i)
    return torch.cat([p.detach().flatten() for p in params]).numpy()


def start():
    return torch.cat([p.detach().flatten() for p in parameters(SHAPES, torch.float64)]).numpy()


LAYOUTS = ["eager", *(["leaf", "flat"] if compiler_available() else [])]


@pytest.mark.parametrize(("name", "values"), CASES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CASES)])
def test_equals_its_paper(name, values):
    end = getattr(twins, name)(start(), STEPS, Problem(), **values)
    assert np.abs(ours(METHODS[name](**values)) - end).max() < 1e-10
    assert np.abs(end - start()).max() > 1e-2, "it moved"


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "values"), CASES[:9], ids=[f"{n}-{i}" for i, (n, _) in enumerate(CASES[:9])])
def test_every_layout_equals_the_paper(name, values, layout):
    end = getattr(twins, name)(start(), STEPS, Problem(), **values)
    assert np.abs(ours(METHODS[name](**values), layout) - end).max() < 1e-9


@pytest.mark.parametrize("layout", LAYOUTS)
def test_vrgd_equals_its_paper(layout):
    problem, params = Problem(), parameters(SHAPES, torch.float64)
    optimizer = Optimizer(params, METHODS["vrgd"](lr=0.3, floor=0.2, weight_decay=0.1), fuse=layout)
    for _ in range(STEPS):
        optimizer.step(
            parts=[filled(params, partial(problem.loss, i), partial(problem.grad, i)) for i in range(NUM_BATCHES)]
        )
    end = twins.vrgd(start(), STEPS, problem, lr=0.3, floor=0.2, weight_decay=0.1)
    assert np.abs(torch.cat([p.detach().flatten() for p in params]).numpy() - end).max() < 1e-9
    assert np.abs(end - start()).max() > 1e-2


RANDOM = [
    ("random_scaling_sgdm", {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.1}),
    ("o2nc", {"lr": 0.05, "radius": 0.2, "every": 7}),
]


@pytest.mark.parametrize(("name", "values"), RANDOM, ids=[n for n, _ in RANDOM])
def test_equals_its_paper_under_the_same_draws(name, values):
    zero = torch.zeros((), dtype=torch.float64)
    draws = [float(uniform(3, t, zero)) for t in range(1, STEPS + 1)]
    end = getattr(twins, name)(start(), STEPS, Problem(), draws=draws, **values)
    assert np.abs(ours(METHODS[name](step_seed=3, **values)) - end).max() < 1e-10
    assert np.abs(end - start()).max() > 1e-2, "it moved"
    assert np.abs(ours(METHODS[name](step_seed=4, **values)) - end).max() > 1e-3, "another seed, another run"


def test_draws_are_uniform_and_independent_of_one_another():
    zero = torch.zeros((), dtype=torch.float64)
    x = np.array([float(uniform(0, t, zero)) for t in range(1, 4001)])
    assert 0 < x.min() < x.max() < 1
    counts = np.histogram(x, bins=20, range=(0, 1))[0]
    assert ((counts - 200) ** 2 / 200).sum() < 45  # 19 degrees of freedom: one in a thousand is above 43.8
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 4 / np.sqrt(x.size)


# -- identities of the papers -------------------------------------------------------------------------------------------


def close(a, b):
    return np.abs(a - b).max() < 1e-12


def test_two_ways_to_the_same_steps():
    m = METHODS
    assert close(ours(m["spider"](0.1, exponent=0.0, every=5)), ours(m["sarah"](0.1, every=5)))
    assert close(ours(m["svrg"](0.1, every=1)), ours(m["sarah"](0.1, every=1)))
    popov = twins.past_extragradient(start(), STEPS, Problem(), lr=0.05)
    assert close(ours(m["optimistic_gradient"](0.05)), popov), "one gradient a step, taken at the points ahead"
    plain = {"b1": 0.9, "weight_decay": 0.1, "gamma": 0.0}
    exact, approximate = (ours(m["mars_adamw"](0.1, exact=e, **plain)) for e in (True, False))
    assert close(exact, approximate)


def test_mars_with_gamma_one_and_small_gradients_is_storms_momentum():
    """c = g + b/(1-b) (g - h), averaged, is d = g + b (d - h) (section 3.1): compared from the second step on, when both start equal."""
    b = 0.8
    made = chain(correct(b / (1 - b), exact=True), momentum(b, dampening=b), descend(1e-3))

    problem, x, d, before = Problem(1e-2), start(), None, None
    for t in range(1, STEPS + 1):
        i = problem.batch(t)
        g = problem.grad(i, x)
        d = g if d is None else g + b * (d - problem.grad(i, before))
        before, x = x, x - 1e-3 * d
    assert close(ours(made, scale=1e-2), x)
