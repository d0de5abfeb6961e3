"""One run: deterministic, paired across methods by its streams, and honest about divergence."""

import pytest
import small
import torch

from fallline.lab import run
from fallline.lab.run import RunSpec, schedule, train
from fallline.lab.streams import seeded
from fallline.tasks import evaluate


def spec(method="adamw", seed=1, steps=40, **hypers):
    return RunSpec("small", method, tuple(sorted(hypers.items())), seed, steps, "confirm")


def deterministic(record):
    return {k: v for k, v in record.items() if not k.endswith(("_seconds", "_ms"))} | {
        "to_target": {k: v for k, v in (record["to_target"] or {}).items() if k != "seconds"}
    }


def test_a_run_is_a_pure_function_of_its_specification():
    torch.manual_seed(123)
    one = train(small.noisy(), spec(lr=0.05))
    torch.manual_seed(456)
    before = torch.get_rng_state()
    two = train(small.noisy(), spec(lr=0.05))
    assert deterministic(one) == deterministic(two)
    assert torch.equal(before, torch.get_rng_state())


def test_methods_share_initial_weights_by_seed():
    hashes = {
        (m, s): train(small.make_task(), spec(m, s, lr=0.01))["initial_parameters"]
        for m in ("adamw", "lion")
        for s in (1, 2)
    }
    assert hashes["adamw", 1] == hashes["lion", 1] != hashes["adamw", 2]


def test_the_record_holds_the_curve_and_the_first_hit():
    record = train(small.make_task(), spec(lr=0.3))
    assert record["steps"] == [10, 20, 30, 40]
    assert record["final"] == record["metric"][-1]
    hit = record["to_target"]
    first = next(t for t, m in zip(record["steps"], record["metric"], strict=True) if m <= 0.5)
    assert (hit["steps"], hit["samples"], hit["gradient_evaluations"]) == (first, 8 * first, first)
    assert record["state_bytes_per_parameter"] == 8.0


def test_the_record_holds_the_metric_of_the_untrained_model():
    task = small.make_task()
    record = train(task, spec(lr=0.3))
    with seeded(1, "init"):
        model = task.model()
    assert record["initial"] == evaluate(task, model)
    assert record["initial"] == train(task, spec("lion", lr=0.01))["initial"]
    nothing = small.make_task(metric=small.Metric("NaN", lambda m, b: small.mse(m, b) * float("nan")))
    assert train(nothing, spec(lr=0.3))["initial"] is None


def test_a_metric_to_be_maximised_hits_from_below():
    up = small.Metric("minus MSE", lambda m, b: -small.mse(m, b), minimize=False)
    record = train(small.make_task(metric=up, target=-0.5), spec(lr=0.3))
    assert record["to_target"] is not None
    assert train(small.make_task(metric=up, target=1.0), spec(lr=0.3))["to_target"] is None


@pytest.mark.parametrize(("task", "lr"), [(small.diverging, 1e6), (small.always_nan, 0.1)])
def test_divergence_is_a_result(task, lr):
    record = train(task(), spec("sgd", lr=lr))
    assert record["status"] == "diverged"
    assert record["final"] is None
    assert record["to_target"] is None
    assert 1 <= record["diverged_at"] <= 40


def test_gradients_that_are_never_finite_are_divergence_and_no_failure():
    def loss(model, batch):
        return small.mse(model, batch) + sum((0 * p).abs().sqrt().sum() for p in model.parameters())

    record = train(small.make_task(loss=loss), spec("sgd", steps=150, lr=0.01))
    assert record["status"] == "diverged"
    assert record["diverged_at"] == 100


def test_the_schedule_warms_up_for_five_percent_and_ends_at_zero():
    s = schedule(200)
    assert s.length == 200
    assert s(10) == 1.0 == max(s(t) for t in range(1, 201))
    assert s(200) < 1e-3


def test_the_id_names_the_numbers_and_the_command_reproduces_them():
    assert spec(lr=0.1).id == spec(lr=0.1).id != spec(lr=0.2).id
    assert (
        spec(lr=0.1, b1=0.8).command
        == "fallline run small --method adamw --set b1=0.8 --set lr=0.1 --seed 1 --steps 40"
    )


def test_every_gradient_is_counted():
    def count(method, **hypers):
        record = train(small.make_task(target=1e9), spec(method, lr=0.01, **hypers))
        hit = record["to_target"]
        assert hit["steps"] == 10
        return hit["gradient_evaluations"], hit["samples"], record["gradient_evaluations"]

    task = small.make_task()
    passes = -(-len(task.train) // 8)
    assert count("adamw") == (10, 80, 40)
    assert count("storm") == (19, 80, 79)  # the first iterate has none before it
    assert count("extragradient") == (20, 80, 80)
    assert count("saga") == count("vrgd") == (10, 80, 40)  # the parts of a batch are a batch
    once = passes  # every=100: the full gradient at the first step, where the snapshot's gradient is not needed
    assert count("svrg") == (19 + once, 80 + len(task.train), 79 + once)


def test_all_data_are_a_sample_where_there_are_many(monkeypatch):
    monkeypatch.setattr(run, "FULL_BATCHES", 3)
    task = small.make_task()
    parts = run._all_data(task, 1, 5)
    assert [len(part) for part, _ in parts] == [8, 8, 8]
    assert sum(weight for _, weight in parts) == pytest.approx(1)
    assert [p.tolist() for p, _ in parts] != [p.tolist() for p, _ in run._all_data(task, 1, 6)]
    monkeypatch.undo()
    whole = run._all_data(task, 1, 5)
    assert torch.cat([part for part, _ in whole]).tolist() == list(range(len(task.train)))
    assert sum(weight for _, weight in whole) == pytest.approx(1)


def test_fixed_batches_are_those_of_the_first_epoch_in_new_orders():
    task = small.make_task()
    count = len(task.train) // 8
    drawn = [run._chosen(task, 1, t, fixed=True) for t in range(1, 2 * count + 1)]
    first = [run._chosen(task, 1, t, fixed=False)[1].tolist() for t in range(1, count + 1)]
    for epoch in (drawn[:count], drawn[count:]):
        assert sorted(number for number, _ in epoch) == list(range(count))
        assert all(chosen.tolist() == first[number] for number, chosen in epoch)


def test_what_a_method_draws_goes_by_the_runs_seed(monkeypatch):
    made = []

    class Spy(Exception):
        pass

    def optimizer(*args, **options):
        made.append(options["seed"])
        raise Spy

    monkeypatch.setattr(run, "Optimizer", optimizer)
    for seed in (0, 7):
        with pytest.raises(Spy):
            train(small.make_task(), RunSpec("small", "noisy_sgd", (), seed, 5, "confirm"))
    assert made == [0, 7]
