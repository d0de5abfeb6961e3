"""One run over many ranks equals the run in one process, and resumes at another number of ranks."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import run_tasks
import torch
from torch import nn

from fallline.checkpoint import load_sharded
from fallline.cli import main
from fallline.core.errors import FalllineError
from fallline.lab import RunSpec, train
from fallline.lab.large import LargeRun, joined, train_large
from fallline.tasks import Metric
from ranks import run_ranks

TASK = f"{Path(__file__).parent / 'run_tasks.py'}:make_task"
METHODS = ("adamw", "lamb", "muon")


def spec(method="adamw", steps=12):
    return RunSpec("net", method, (("lr", 0.05),), 3, steps, "confirm")


def numbers(record):
    """What does not depend on the clock."""
    return {k: record[k] for k in ("steps", "metric", "train_loss", "final", "status", "gradient_evaluations")}


def over_ranks(rank, world_size, make, methods, how=None, note=lambda text: None):
    with joined("cpu") as ranks:
        return [numbers(train_large(make(), spec(m), ranks, how or LargeRun(), on_note=note)) for m in methods]


def check_equal(found, expected, tolerance=1e-5):
    assert found["steps"] == expected["steps"]
    assert (found["status"], found["gradient_evaluations"]) == (expected["status"], expected["gradient_evaluations"])
    for key in ("metric", "train_loss"):
        torch.testing.assert_close(
            torch.tensor(found[key]), torch.tensor(expected[key]), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("world_size", [2, 3])
def test_ddp_equals_one_process(world_size):
    ranks = run_ranks(over_ranks, world_size, run_tasks.make_task, METHODS)
    assert ranks[0] == ranks[-1], "every rank has the same record, to the last bit"
    for method, found in zip(METHODS, ranks[0], strict=True):
        check_equal(found, numbers(train(run_tasks.make_task(), spec(method))))


def test_fsdp_equals_one_process():
    ranks = run_ranks(over_ranks, 2, run_tasks.make_task, METHODS, LargeRun("fsdp"))
    assert ranks[0] == ranks[1]
    for method, found in zip(METHODS, ranks[0], strict=True):
        check_equal(found, numbers(train(run_tasks.make_task(), spec(method))))


@pytest.mark.parametrize("make", [run_tasks.augmented, run_tasks.attribute])
def test_any_loss_and_augmentation_equal_one_process(make):
    for (found,) in run_ranks(over_ranks, 2, make, ("adamw",)):
        check_equal(found, numbers(train(make(), spec())))


EVALUATING = ("svrg", "storm", "saga", "armijo_sgd", "vrgd", "extragradient")


def test_methods_that_ask_for_other_gradients_equal_one_process():
    """All data in batches that do not divide (99 examples), a line search, gradients elsewhere and of parts."""
    (found, _) = run_ranks(evaluating, 2)
    for method in EVALUATING:
        check_equal(found[method], numbers(train(run_tasks.make_task(), plain(method))), 1e-4)


def plain(method):
    return RunSpec("net", method, (), 3, 6, "confirm")


def evaluating(rank, world_size):
    with joined("cpu") as ranks:
        return {m: numbers(train_large(run_tasks.make_task(), plain(m), ranks, LargeRun())) for m in EVALUATING}


# -- checkpoints ---------------------------------------------------------------------------------------------------------


class Stop(Exception):
    pass


def interrupted(rank, world_size, folder, how):
    """Ends after the evaluation of step 9, with a checkpoint of step 8."""

    def stop(step, loss, metric):
        if step == 9:
            raise Stop

    with joined("cpu") as ranks:
        try:
            train_large(run_tasks.make_task(), spec(), ranks, how, on_evaluation=stop)
        except Stop:
            return "stopped"


def resumed(rank, world_size, how):
    notes = []
    (found,) = over_ranks(rank, world_size, run_tasks.make_task, ("adamw",), how, notes.append)
    return found, notes


@pytest.mark.parametrize(("first", "second", "world_size"), [("ddp", "fsdp", 3), ("fsdp", "ddp", 3), ("ddp", None, 1)])
def test_a_run_goes_on_at_another_number_of_ranks(tmp_path, first, second, world_size):
    folder = tmp_path / "c"
    how = LargeRun(first, folder, 4, folder)  # nothing there yet: starts afresh
    assert run_ranks(interrupted, 2, folder, how) == ["stopped"] * 2
    assert load_sharded(folder)["step"] == 8
    ranks = run_ranks(resumed, world_size, LargeRun(second, None, None, folder))
    for found, notes in ranks:
        assert "goes on after step 8 of 12" in notes
        check_equal(found, numbers(train(run_tasks.make_task(), spec())))


def test_one_process_resumes_bit_for_bit(tmp_path):
    folder = tmp_path / "c"
    assert interrupted(0, 1, folder, LargeRun(None, folder, 4)) == "stopped"
    found, _ = resumed(0, 1, LargeRun(None, folder, 4, folder))
    assert found == numbers(train(run_tasks.make_task(), spec()))
    again, notes = resumed(0, 1, LargeRun(None, folder, 4, folder))  # a run that has ended stays as it ended
    assert again == found
    assert "goes on after step 12 of 12" in notes


# -- what is refused, and what is noted -----------------------------------------------------------------------------------


def refused(rank, world_size, how, changes):
    with joined("cpu") as ranks, pytest.raises(FalllineError) as error:
        train_large(run_tasks.make_task(**changes), spec(), ranks, how)
    return str(error.value)


@pytest.mark.parametrize(
    ("world_size", "how", "changes", "text"),
    [
        (3, LargeRun(), {"batch_size": 8}, "8 examples of net cannot be split evenly over 3 processes"),
        (1, LargeRun(every=5), {}, "--every 5 without --save saves nothing"),
        (1, LargeRun("dpp"), {}, "parallel is 'dpp'"),
    ],
)
def test_mistakes_are_found_on_every_rank(world_size, how, changes, text):
    found = run_ranks(refused, world_size, how, changes)
    assert all(text in seen for seen in found)


def test_parallel_needs_torchrun():
    with joined() as ranks, pytest.raises(FalllineError, match="torchrun --nproc-per-node 2"):
        train_large(run_tasks.make_task(), spec(), ranks, LargeRun("ddp"))


def test_checkpoints_are_neither_overwritten_nor_mixed_up(tmp_path):
    folder = tmp_path / "c"
    interrupted(0, 1, folder, LargeRun(None, folder, 4))
    with joined() as ranks:
        with pytest.raises(FalllineError, match=r"holds a checkpoint already.*Add --resume"):
            train_large(run_tasks.make_task(), spec(), ranks, LargeRun(None, folder))
        with pytest.raises(FalllineError, match=r"was saved with method 'adamw'; this run has method 'lion'"):
            train_large(run_tasks.make_task(), spec("lion"), ranks, LargeRun(None, None, None, folder))
        with pytest.raises(FalllineError, match="holds no checkpoint"):
            train_large(run_tasks.make_task(), spec(), ranks, LargeRun(None, None, None, tmp_path / "none"))
        with pytest.raises(FalllineError, match=r"another number|new parent|written"):
            train_large(run_tasks.make_task(), spec(), ranks, LargeRun(None, tmp_path / "no" / "such" / "parent"))


def noted(rank, world_size, make):
    notes = []
    with joined("cpu") as ranks:
        record = train_large(make(), spec(), ranks, LargeRun(), on_note=notes.append)
    return notes, numbers(record)


def test_what_another_number_of_processes_changes_is_noted():
    notes, _ = run_ranks(noted, 2, run_tasks.normed)[0]
    assert any("batch normalisation" in text for text in notes)
    assert any("dropout" in text for text in notes)
    assert run_ranks(noted, 2, run_tasks.make_task)[0][0] == []


def statistics(rank, world_size, how):
    """Running means as the metric sees them."""
    seen = []

    def metric(model, batch):
        seen.append(model.blocks[1].running_mean.tolist())
        return run_tasks.mse(model, batch)

    with joined("cpu") as ranks:
        task = replace(run_tasks.normed(), metric=Metric("MSE", metric))
        train_large(task, spec(), ranks, how)
    return seen


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_all_ranks_evaluate_with_the_same_running_statistics(parallel):
    first, second = run_ranks(statistics, 2, LargeRun(parallel))
    assert first == second
    assert len({tuple(means) for means in first}) == 4, "which change from one evaluation to the next"


def masks(rank, world_size):
    """What dropout lets through on each rank, over two steps."""
    seen = []

    def loss(model, batch):
        seen.append(nn.functional.dropout(torch.ones(64), 0.5).tolist())
        return run_tasks.mse(model, batch)

    with joined("cpu") as ranks:
        train_large(run_tasks.make_task(loss=loss, steps=2, num_evals=1), spec(steps=2), ranks, LargeRun())
    return seen[-2:]


def test_ranks_draw_dropout_masks_of_their_own_and_rank_0_those_of_one_process():
    first, second = run_ranks(masks, 2)
    assert first[0] != first[1]
    assert first[0] != second[0]
    assert masks(0, 1) == first


# -- the command ---------------------------------------------------------------------------------------------------------


def torchrun(*argv, world_size=2):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = ["-m", "torch.distributed.run", "--nproc-per-node", str(world_size), "-m", "fallline", *argv]
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=env, timeout=180)


def test_the_command_under_torchrun(tmp_path, capsys):
    argv = ["run", TASK, "--steps", "12", "--set", "lr=0.05", "--seed", "3"]
    result = torchrun(*argv, "--save", str(tmp_path / "c"), "--device", "cpu")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("final MSE") == 1, "rank 0 prints"
    assert "2 processes, ddp" in result.stdout
    assert main(argv) == 0
    one = capsys.readouterr().out.splitlines()[-1]
    two = result.stdout.splitlines()[-1]
    assert float(two.split()[-1]) == pytest.approx(float(one.split()[-1]), rel=1e-5)
    assert main([*argv, "--resume", str(tmp_path / "c")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == two


def test_a_mistake_under_torchrun_is_one_line_and_exit_code_2():
    result = torchrun("run", TASK, "--method", "adamv")
    assert result.returncode != 0
    assert result.stderr.count("fallline: Unknown method 'adamv'. Did you mean adam") == 1
    assert "exitcode  : 2" in result.stderr
