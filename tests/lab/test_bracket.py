"""The bracket of learning rates: known edges, noise that must not be taken for an answer, and everything put back."""

import copy
import math
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fallline
from fallline.core.errors import FalllineError
from fallline.lab import find_bracket
from fallline.methods import adamw, muon
from fallline.schedules import cosine

QUARTER = 10**0.25 * 1.001  # the edge is told to a quarter of a decade


class Bowl(nn.Module):
    """w -> sum of h w^2 / 2, from w = 1."""

    def __init__(self, *curvatures):
        super().__init__()
        self.weights = nn.ParameterList(torch.ones(()) for _ in curvatures)
        self.curvatures = curvatures

    def forward(self):
        return sum(h * w.square() / 2 for h, w in zip(self.curvatures, self.weights, strict=True))


def bracket_of_bowl(model, optimizer, noise=0.0, seed=0, **options):
    own = torch.Generator().manual_seed(seed)  # not one that could be put back

    def loss(_):
        return model() + noise * torch.randn((), generator=own)

    return find_bracket(model, optimizer, loss, list(range(16)), **options)


@pytest.mark.parametrize(
    ("curvature", "momentum", "lr"),
    [(1.0, 0.0, 1e-6), (300.0, 0.0, 0.1), (1e-3, 0.0, 100.0), (1.0, 0.9, 0.1), (300.0, 0.9, 100.0)],
)
def test_the_edge_on_a_quadratic_is_the_one_of_theory(curvature, momentum, lr):
    """2 (1 + momentum) / h for heavy balls (Polyak 1964), wherever the search starts."""
    model = Bowl(curvature)
    bracket = bracket_of_bowl(model, torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum))
    edge = 2 * (1 + momentum) / curvature
    assert edge / QUARTER < bracket.edge < edge * QUARTER
    assert len(bracket.edges) == 3
    assert bracket.low < bracket.high < bracket.edge
    assert not bracket.unclear


def test_the_low_end_makes_a_tenth_of_the_best_progress():
    """After n steps of gradient descent w^2 is (1 - lr h)^2n: half a decade is the step of the scan."""
    model = Bowl(1.0)
    bracket = bracket_of_bowl(model, torch.optim.SGD(model.parameters(), lr=0.1))
    smallest = 1 - 0.9 ** (1 / 60)  # of 30 steps; the best rate reaches the minimum
    assert smallest <= bracket.low < smallest * 10**0.5


def test_noise_hides_no_edge():
    for seed in range(3):
        model = Bowl(1.0)
        bracket = bracket_of_bowl(model, torch.optim.SGD(model.parameters(), lr=1e-3), noise=0.3, seed=seed)
        assert 2 / QUARTER < bracket.edge < 2 * 10**0.5  # a slow divergence stays in the noise for 30 steps
        assert bracket.noise == pytest.approx(0.3, rel=0.5)


@pytest.mark.parametrize("noise", [0.0, 1e-3, 1.0, 1e3])
def test_a_flat_loss_cannot_tell_whatever_its_noise(noise):
    for seed in range(3):
        model = Bowl(0.0)
        bracket = bracket_of_bowl(model, torch.optim.SGD(model.parameters(), lr=1e-3), noise=noise, seed=seed)
        assert (bracket.low, bracket.high, bracket.edge) == (None, None, None)
        assert "does not move beyond its noise" in bracket.unclear


def test_a_loss_that_only_rises_cannot_tell():
    model = Bowl(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, maximize=True)
    bracket = bracket_of_bowl(model, optimizer)
    assert "at no rate below the edge does the loss fall" in bracket.unclear
    assert bracket.edge is None


def test_groups_keep_their_ratio_and_the_stiff_one_decides():
    model = Bowl(1.0, 1e4)
    first, second = model.weights
    optimizer = torch.optim.SGD([{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.001}])
    ratios = set()
    optimizer.register_step_pre_hook(
        lambda o, *_: ratios.add(round(o.param_groups[0]["lr"] / o.param_groups[1]["lr"], 9))
    )
    bracket = bracket_of_bowl(model, optimizer)
    assert ratios == {100.0}
    assert 0.02 / QUARTER < bracket.edge < 0.02 * QUARTER  # 2 / 1e4 in the second group
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.001]


def test_the_cost_is_counted():
    model = Bowl(1.0)
    steps, losses = [], []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: steps.append(1))

    def loss(batch):
        losses.append(1)
        return model()

    bracket = find_bracket(model, optimizer, loss, list(range(16)))
    assert bracket.gradient_evaluations in range(
        len(steps), len(steps) + 20
    )  # a probe may end before its step is taken
    assert bracket.gradient_evaluations + bracket.loss_evaluations == len(losses)
    assert bracket.gradient_evaluations < 1000


# -- everything as it was -----------------------------------------------------------------------------------------------------


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))


OPTIMIZERS = {
    "sgd": lambda m: torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9),
    "adamw": lambda m: torch.optim.AdamW([{"params": m[0].parameters(), "lr": 1e-2}, {"params": m[4].parameters()}]),
    "capturable": lambda m: torch.optim.Adam(m.parameters(), lr=torch.tensor(1e-3), foreach=False),
    "fallline": lambda m: fallline.Optimizer(m, adamw(lr=1e-2)),
    "rules": lambda m: fallline.Optimizer(m, {"0.weight": muon(lr=0.02), "*": adamw(lr=3e-3)}),
}


def train(name, steps_before, between, own_generator):
    """Parameters, state and random numbers after some steps, ``between(...)``, and some more."""
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(3) if own_generator else None
    loader = DataLoader(TensorDataset(inputs, inputs.sum(1)), batch_size=8, shuffle=True, generator=generator)
    model = network()
    torch.manual_seed(4)
    optimizer = OPTIMIZERS[name](model)

    def loss(batch):
        return (model(batch[0])[:, 0] - batch[1]).square().mean()

    def epoch(steps):
        for _, batch in zip(range(steps), loader, strict=False):

            def closure(batch=batch):
                optimizer.zero_grad()
                value = loss(batch)
                value.backward()
                return value

            optimizer.step(closure)

    epoch(steps_before)
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    between(model, optimizer, loss, loader)
    for p, g in zip(model.parameters(), gradients, strict=True):
        assert (p.grad is None) == (g is None)
        assert g is None or torch.equal(p.grad, g)
    epoch(8)
    return copy.deepcopy((model.state_dict(), optimizer.state_dict())), torch.rand(3), random.random(), np.random.rand()


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


CASES = [
    ("sgd", 0, False), ("sgd", 5, True), ("adamw", 0, True), ("adamw", 5, False), ("capturable", 5, True), ("fallline", 5, False),
    ("rules", 0, True), ("rules", 5, True),
]  # fmt: skip


@pytest.mark.parametrize(("name", "steps_before", "own_generator"), CASES)
def test_training_goes_on_as_if_nothing_had_happened(name, steps_before, own_generator):
    found = []
    touched = train(name, steps_before, lambda *given: found.append(find_bracket(*given, num_probes=1)), own_generator)
    untouched = train(name, steps_before, lambda *given: None, own_generator)
    assert equal(touched, untouched)
    assert found[0].gradient_evaluations > 50


def test_an_error_in_the_loss_leaves_everything_as_it_was_too():
    calls = []

    def between(model, optimizer, loss, loader):
        def broken(batch):
            calls.append(1)
            if len(calls) > 40:
                raise RuntimeError("the user's bug")
            return loss(batch)

        with pytest.raises(RuntimeError, match="the user's bug"):
            find_bracket(model, optimizer, broken, loader)

    assert equal(train("adamw", 3, between, True), train("adamw", 3, lambda *given: None, True))


# -- mistakes -----------------------------------------------------------------------------------------------------------------


def batches(count=8):
    return [torch.randn(4, 4) for _ in range(count)]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"batches": iter(batches())}, r"got a list_iterator as batches.*cannot be put back.*Pass the loader itself"),
        ({"batches": batches(3)}, r"got 3 batches\. It needs 4 or more to tell progress from noise.*Give smaller"),
        ({"num_probes": 0}, r"got num_probes=0\. Expected a whole number, at least 1"),
        ({"lr": 0.0}, r"group 0 has lr=0\.0\. Expected a positive rate in every group"),
        ({"loss": lambda batch: batch.sum() * math.nan}, r"not finite before the first step.*Look for NaN"),
    ],
)
def test_mistakes(change, text):
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=change.get("lr", 0.1))
    given = {"loss": lambda batch: model(batch).mean(), "batches": batches(), **change}
    given.pop("lr", None)
    with pytest.raises(FalllineError, match=text):
        find_bracket(model, optimizer, **given)


def test_a_schedule_would_undo_the_probes():
    model = nn.Linear(4, 1)
    optimizer = fallline.Optimizer(model, adamw(lr=1e-3 * cosine(100)))
    with pytest.raises(FalllineError, match=r"whose lr is a schedule.*Expected a number.*Build the optimizer"):
        find_bracket(model, optimizer, lambda batch: model(batch).mean(), batches())
