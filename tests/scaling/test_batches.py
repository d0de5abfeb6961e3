"""BatchSizeScheduler: every example once, gradients of the whole batch, resuming anywhere, loaders that read ahead; tests of noise."""

import json
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fallline
from fallline.core.errors import FalllineError
from fallline.methods import sgd
from fallline.scaling import BatchSizeScheduler, Parts, cabs, coordinate_test, grow_batch, inner_product_test, norm_test
from fallline.schedules import constant, cosine, piecewise, step_decay, tabulated

X = torch.arange(50, dtype=torch.float64)
DATA = TensorDataset(X)


def loader(batches, **options):
    return DataLoader(DATA, batch_sampler=batches, **options)


def run(batches, epochs, stop=None, **options):
    """(number, size, examples, weights) of every step."""
    seen = []
    made = loader(batches, **options)
    for _ in range(epochs):
        for step in batches.steps(made):
            parts = [(x, w) for (x,), w in step]
            seen.append((step.number, step.size, torch.cat([x for x, _ in parts]).tolist(), [w for _, w in parts]))
            if len(seen) == stop:
                return seen
    return seen


def test_an_epoch_visits_every_example_once_in_a_new_order():
    seen = run(BatchSizeScheduler(50, 8 * step_decay(3, 2.0), micro_batch=6), epochs=2)
    one, two = ([x for *_, xs, _ in part for x in xs] for part in (seen[:5], seen[5:]))
    assert [size for _, size, *_ in seen[:5]] == [8, 8, 8, 16, 10]  # the last one is what is left
    assert sorted(one) == sorted(two) == X.tolist()
    assert one != two
    assert [number for number, *_ in seen] == list(range(1, len(seen) + 1))


def test_parts_fit_the_memory_and_their_weights_sum_to_one():
    for _, size, _, weights in run(BatchSizeScheduler(50, 20, micro_batch=8), epochs=1):
        assert len(weights) == math.ceil(size / 8)
        assert sum(weights) == pytest.approx(1)


def test_drop_last_leaves_out_what_is_left():
    seen = run(BatchSizeScheduler(50, 16, micro_batch=16, drop_last=True), epochs=2)
    assert [size for _, size, *_ in seen] == [16] * 6


def test_accumulated_gradients_are_those_of_the_whole_batch():
    torch.manual_seed(0)
    x, y = torch.randn(40, 3, dtype=torch.float64), torch.randn(40, 1, dtype=torch.float64)
    sizes = tabulated([5, 10, 25])
    ends = []
    for micro in (3, 40):
        torch.manual_seed(1)
        model = nn.Linear(3, 1).double()
        optimizer = fallline.Optimizer(model, sgd(lr=0.1), fuse="eager")
        batches = BatchSizeScheduler(40, sizes, micro_batch=micro, seed=7)
        for step in batches.steps(DataLoader(TensorDataset(x, y), batch_sampler=batches)):
            for (a, b), weight in step:
                (weight * (model(a) - b).square().mean()).backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append(model.weight.detach())
    assert torch.allclose(*ends, rtol=1e-12)


@pytest.mark.parametrize(("stop", "workers"), [(1, 0), (3, 0), (6, 0), (7, 0), (9, 0), (3, 1)])
def test_a_resumed_run_goes_on_in_the_middle_of_an_epoch(stop, workers):
    sizes = 6 * step_decay(4, 1.5)
    whole = run(BatchSizeScheduler(50, sizes, micro_batch=4, seed=3), epochs=3)
    first = BatchSizeScheduler(50, sizes, micro_batch=4, seed=3)
    before = run(first, 3, stop=stop, num_workers=workers)
    state = json.loads(json.dumps(first.state_dict()))
    second = BatchSizeScheduler(50, sizes, micro_batch=4, seed=3)
    second.load_state_dict(state)
    after = run(second, 4)[: len(whole) - stop]
    assert before + after == whole


def test_a_loop_that_breaks_off_goes_on_where_it_was():
    batches = BatchSizeScheduler(50, 10, micro_batch=5)
    first = run(batches, 1, stop=2)
    rest = run(batches, 1)
    assert [number for number, *_ in first + rest] == [1, 2, 3, 4, 5]
    assert sorted(x for *_, xs, _ in first + rest for x in xs) == X.tolist()


def test_parts_that_the_loop_leaves_out_are_skipped():
    batches = BatchSizeScheduler(50, 20, micro_batch=5)
    numbers = [step.number for step in batches.steps(loader(batches))]
    assert numbers == [1, 2, 3]


def test_resize_acts_on_the_next_step():
    batches = BatchSizeScheduler(50, 4, micro_batch=4)
    sizes = []
    for step in batches.steps(loader(batches)):
        for _ in step:
            pass
        sizes.append(step.size)
        batches.resize(2 * batches.batch_size)
    assert sizes == [4, 8, 16, 22]
    assert batches.state_dict()["batch_size"] == 64


def test_the_length_is_the_number_of_parts_left():
    batches = BatchSizeScheduler(50, 12, micro_batch=5)
    assert len(loader(batches)) == len(batches) == 4 * 3 + 1  # 12, 12, 12, 12 and 2 in parts of 5
    run(batches, 1, stop=4)
    assert len(batches) == 1


def test_a_traded_schedule_drives_both():
    traded = grow_batch(0.5 * cosine(20), 20, batch=5, most=20)
    batches = BatchSizeScheduler(50, traded.batch, micro_batch=50)
    seen = run(batches, 2)
    assert [size for _, size, *_ in seen[:3]] == [traded.batch(t) for t in (1, 2, 3)]
    assert sum(traded.batch(t) for t in range(1, traded.num_steps + 1)) == 100


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BatchSizeScheduler(0, 1, 1), "num_examples=0"),
        (lambda: BatchSizeScheduler(10, 2.5, 1), "batch_size=2.5"),
        (lambda: BatchSizeScheduler(10, 2, True), "micro_batch=True"),
        (lambda: list(BatchSizeScheduler(10, 0.1 * constant(), 1)), "batch size at step 1 is 0.1"),
        (lambda: list(BatchSizeScheduler(10, 11, 1, drop_last=True)), "wants a batch of 11, more than all 10"),
        (lambda: BatchSizeScheduler(10, 2 * constant(), 1).resize(3), "has no effect"),
        (lambda: BatchSizeScheduler(10, 2, 1).resize(0), "batch_size=0"),
        (lambda: next(BatchSizeScheduler(50, 2, 1).steps(DataLoader(DATA))), "draws its batches elsewhere"),
        (lambda: BatchSizeScheduler(50, 2, 1).load_state_dict(BatchSizeScheduler(51, 2, 1).state_dict()), "num_examples=51"),
        (lambda: BatchSizeScheduler(50, 2, 1).load_state_dict(BatchSizeScheduler(50, 2, 1, seed=1).state_dict()), "seed=1"),
        (lambda: BatchSizeScheduler(50, 2, 1).load_state_dict(BatchSizeScheduler(50, constant(), 1).state_dict()), "a number or a schedule"),
        (lambda: grow_batch(constant(), 0, 1, 1), "at least one step"),
        (lambda: grow_batch(constant(), 10, 8, 4), "most >= batch"),
        (lambda: grow_batch(piecewise((1, 1.0), (9, -1.0)), 9, 8, 8), "no negative rate"),
    ],
)  # fmt: skip
def test_errors(make, message):
    with pytest.raises(FalllineError, match=message):
        make()


# -- growth of the batch ---------------------------------------------------------------------------------------------------


def test_beyond_the_largest_batch_the_rate_decays():
    traded = grow_batch(step_decay(10, 0.1), 30, batch=4, most=40)
    assert [traded.batch(t) for t in (10, 11)] == [4, 40]
    assert traded.lr(11) == pytest.approx(1.0)
    assert traded.lr(12) == pytest.approx(0.1)
    assert traded.batch(12) == 40


def test_a_rate_of_zero_gets_the_largest_batch():
    traded = grow_batch(tabulated([1.0, 0.0]), 4, batch=4, most=8)
    assert [traded.batch(t) for t in (1, 2)] == [4, 8]
    assert traded.lr(2) == 0.0


# -- noise -----------------------------------------------------------------------------------------------------------------


def test_parts_of_a_model():
    torch.manual_seed(0)
    model = nn.Linear(3, 1).double()
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 1, dtype=torch.float64)
    oracle = fallline.of_module(model, nn.functional.mse_loss)
    parts = Parts.of([oracle.value_and_grad(oracle.params, (x[i : i + 2], y[i : i + 2]))[1] for i in range(0, 8, 2)], 2)
    assert parts.gradients.shape == (4, 4)
    assert parts.batch == 8
    whole = oracle.value_and_grad(oracle.params, (x, y))[1]
    assert torch.allclose(parts.gradients.mean(0), torch.cat([whole["weight"].flatten(), whole["bias"]]))
    spread = (parts.gradients - parts.gradients.mean(0)).square().sum() / 3
    assert parts.trace == pytest.approx(2 * float(spread))
    assert norm_test(parts, eta=1e-9, most=512) == 512


def test_the_noise_scale_is_infinite_where_noise_prevails():
    assert Parts(torch.tensor([[1.0], [-1.0]])).noise_scale == math.inf
    assert Parts(torch.tensor([[1.0], [3.0]])).noise_scale == pytest.approx(2 / (4 - 1))


def test_vanishing_gradients_ask_for_the_most():
    parts = Parts(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    assert norm_test(parts, 0.5, most=100) == coordinate_test(parts, 0.5, most=100) == 100
    assert inner_product_test(Parts(torch.zeros(2, 2)), 0.5, most=100) == 2


def test_cabs_stays_within_its_bounds():
    parts = Parts(torch.tensor([[1.0], [3.0]]))
    assert cabs(parts, loss=1.0, lr=4.0) == 8
    assert cabs(parts, loss=1.0, lr=4.0, most=5) == 5
    assert cabs(parts, loss=100.0, lr=0.1, least=3) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Parts(torch.zeros(3)), r"Expected \(parts, parameters\)"),
        (lambda: Parts(torch.zeros(1, 3)), "at least two parts"),
        (lambda: Parts(torch.tensor([[math.nan], [1.0]])), "all finite"),
        (lambda: Parts(torch.zeros(2, 3), size=0), "size=0"),
        (lambda: Parts.of([]), "got nothing"),
        (lambda: Parts.of([torch.zeros(3)]), "got Tensor"),
        (lambda: norm_test(Parts(torch.zeros(2, 1)), 0.0), "eta=0.0"),
        (lambda: norm_test(Parts(torch.zeros(2, 1)), 1.0, most=0), "most=0"),
        (lambda: inner_product_test(Parts(torch.zeros(2, 1)), -1.0), "theta=-1.0"),
        (lambda: cabs(Parts(torch.zeros(2, 1)), 0.0, 0.1), "loss=0.0"),
    ],
)
def test_noise_errors(make, message):
    with pytest.raises(FalllineError, match=message):
        make()
