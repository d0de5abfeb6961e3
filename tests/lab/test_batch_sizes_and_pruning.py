"""Batch sizes as entries of their own, the noise beside them, and pruning that marks a study as exploratory."""

import json

import pytest
import small
import torch
from test_study import stripped, task
from torch import nn

from fallline.cli import main
from fallline.core.errors import FalllineError
from fallline.core.oracle import of_loss
from fallline.curvature import gradient_statistics
from fallline.lab import RunSpec, load_study, make_spec, run_study, train
from fallline.lab.entries import at_batch_size, base_of, label, load_entry
from fallline.lab.halving import train_halving
from fallline.lab.noise import train_and_measure
from fallline.tasks import Tensors, fetch


def test_an_entry_keeps_the_samples_and_changes_the_steps():
    entry = load_entry(f"{task()}@16")
    assert (entry.batch_size, entry.steps, entry.num_evals) == (16, 20, 4)
    assert base_of("digits-mlp@32") == "digits-mlp"
    assert base_of("a@b/file.py:make") == "a@b/file.py:make"
    assert label(f"{task()}@16", entry) == "small@16"
    tiny = at_batch_size(small.make_task(steps=4), 32)
    assert (tiny.steps, tiny.num_evals) == (1, 1)
    with pytest.raises(FalllineError, match="batch_size is 64"):
        load_entry(f"{task()}@64")


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sizes")
    spec = make_spec([task()], ["lion"], "quick", 2, batch_sizes=[4, 16])
    return spec, folder, run_study(spec, folder)


def test_every_method_is_tuned_anew_at_every_batch_size(sizes):
    spec, folder, results = sizes
    assert [t["name"] for t in results["tasks"]] == ["small@4", "small@16"]
    assert [(t["batch_size"], t["steps"], t["samples"]) for t in results["tasks"]] == [(4, 24, 96), (16, 6, 96)]
    assert results["study"]["complete"]
    assert results["study"]["runs"]["planned"] == spec.num_runs == 2 * (3 * (8 + 2) + 3 + 2 + 1)
    assert "--batch-size 4,16" in results["study"]["command"]
    assert "ranking" not in results, "two batch sizes of one task are one task"
    assert stripped(load_study(folder)[1]) == stripped(results)
    for t in results["tasks"]:
        for m in t["methods"]:
            assert all(f"@{t['batch_size']}" in r["command"] for r in m["trials"])
    json.dumps(results, allow_nan=False)


def test_the_noise_scale_stands_beside_every_batch_size(sizes):
    _, _, results = sizes
    first, second = (t["noise_scale"] for t in results["tasks"])
    assert first["initial"] == second["initial"] > 0, "the same weights and the same examples"
    for found in (first, second):
        assert found["trained"] == found["detail"]["trained"]["value"]
        assert found["detail"]["initial"]["low"] <= found["initial"] <= found["detail"]["initial"]["high"]


def test_a_run_of_a_batch_size_can_be_repeated(sizes, capsys):
    _, _, results = sizes
    run = results["tasks"][1]["methods"][0]["runs"][0]
    assert main(run["command"].split()[1:]) == 0
    assert repr(run["final"])[:8] in capsys.readouterr().out


def planted(noise):
    """A loss linear in the parameters: the gradient of an example is the example, (1, ..., 1) and noise."""
    x = 1 + noise * torch.randn(2048, 8, generator=torch.Generator().manual_seed(1))
    y = torch.zeros(2048)
    return small.make_task(
        model=lambda: nn.Linear(8, 1, bias=False),
        loss=lambda m, b: m(b[0]).mean(),
        train=Tensors(x, y),
        valid=Tensors(x[:64], y[:64]),
        metric=small.Metric("loss", lambda m, b: m(b[0]).mean()),
    )


def test_the_noise_scale_is_that_of_the_data():
    record = train_and_measure(planted(3.0), RunSpec("t", "sgd", (("lr", 1e-3),), 0, 4, "noise"))
    exact = gradient_statistics(
        of_loss(planted(3.0).model(), planted(3.0).loss), fetch(planted(3.0).train, torch.arange(2048))
    )
    for when in ("initial", "trained"):
        found = record["noise_scale"][when]
        assert found["value"] == pytest.approx(9.0, rel=0.15)
        assert found["value"] == pytest.approx(exact.noise_scale, rel=0.15)
        assert found["low"] < 9 < found["high"]


def test_measuring_changes_no_number_and_has_a_name_of_its_own():
    spec = RunSpec("small", "adamw", (("lr", 0.1),), 0, 12, "noise")
    record, plain = train_and_measure(small.noisy(), spec), train(small.noisy(), spec)
    assert record["metric"] == plain["metric"]
    assert spec.id != RunSpec("small", "adamw", (("lr", 0.1),), 0, 12, "tune").id


def test_a_loss_of_whole_batches_only_loses_no_study():
    def loss(model, batch):
        if len(batch[0]) != 8:
            raise RuntimeError("only eight")
        return small.mse(model, batch)

    found = train_and_measure(small.make_task(loss=loss), RunSpec("small", "adamw", (), 0, 4, "noise"))["noise_scale"]
    assert found["initial"]["value"] is None
    assert "only eight" in found["initial"]["why"]


def trials(n=8):
    return [RunSpec("small", "adamw", (("lr", 10.0 ** -(k / 2)),), 0, 40, "prune") for k in range(n)]


def test_halving_keeps_the_better_half_twice_and_changes_no_survivor():
    specs = trials()
    records = train_halving(small.make_task(), specs)
    assert [r["status"] for r in records].count("done") == 2
    assert [r["status"] for r in records].count("pruned") == 6
    assert sorted(len(r["steps"]) for r in records) == [1, 1, 1, 1, 2, 2, 4, 4]
    full = [train(small.make_task(), s) for s in specs]
    early = sorted(f["metric"][0] for f in full)
    for record, whole in zip(records, full, strict=True):
        assert record["metric"] == whole["metric"][: len(record["metric"])]
        assert (len(record["steps"]) > 1) == (whole["metric"][0] <= early[3])
        assert (record["final"] is None) == (record["status"] == "pruned")


def test_two_rungs_on_one_evaluation_stop_there():
    records = train_halving(small.make_task(num_evals=2), trials())
    assert sorted(len(r["steps"]) for r in records) == [1] * 6 + [2, 2]


def test_trials_that_diverge_stay_as_they_are():
    specs = [RunSpec("small", "sgd", (("lr", lr),), 0, 40, "prune") for lr in (1e9, 1e-3, 1e8, 1e7)]
    records = train_halving(small.diverging(), specs)
    assert [r["status"] for r in records] == ["diverged", "done", "diverged", "diverged"]
    for spec, record in zip(specs, records, strict=True):
        assert record["diverged_at"] == train(small.diverging(), spec)["diverged_at"]


def test_a_pruned_study_explores_and_says_so(tmp_path):
    spec = make_spec([task()], ["lion"], "quick", 7, prune=True)
    results = run_study(spec, tmp_path, 2)
    (t,) = results["tasks"]
    assert t["exploratory"]
    assert t["verdict"]["sentences"][0].startswith("Exploratory")
    assert results["study"]["complete"]
    assert results["study"]["runs"]["pruned"] > 0
    assert all(m["tunability"]["expected_best"] == [] for m in t["methods"])
    assert any("--prune" in text for text in t["what_would_change"])
    assert stripped(results) == stripped(run_study(spec, tmp_path / "again", 1))


def test_batch_sizes_are_numbers():
    assert main(["compare", task(), "--batch-size", "32,many"]) == 2
    with pytest.raises(FalllineError, match="A batch of 0 examples is empty"):
        make_spec([task()], ["lion"], batch_sizes=[0])
    assert make_spec([task()], ["lion"], batch_sizes=[8, 8]).entries == (f"{task()}@8",)
