"""Second-order solvers in the laboratory: they train by name like any method, and pay for what they take."""

from pathlib import Path

import pytest
import small
import torch

from fallline.cli.main import main
from fallline.core.errors import FalllineError
from fallline.core.optimizer import Optimizer
from fallline.core.oracle import of_loss
from fallline.lab import Alone, make_spec, run_study, train, train_population
from fallline.lab.entries import METHODS, STEP_METHODS, entry_of
from fallline.lab.run import RunSpec, schedule
from fallline.lab.streams import batch_indices, seeded
from fallline.second_order import kfac
from fallline.second_order.entries import steps
from fallline.tasks import evaluate, fetch

SMALL = f"{Path(__file__).parent / 'small.py'}:make_task"


def spec(method, seed=1, steps=20, **hypers):
    return RunSpec("small", method, tuple(sorted(hypers.items())), seed, steps, "confirm")


def test_a_run_is_what_its_solver_and_chain_do():
    task = small.make_task()
    record = train(task, spec("kfac", lr=0.1, damping=0.5))
    with seeded(1, "init"):
        model = task.model()
    solver = kfac(of_loss(model, task.loss), 0.5, seed=1)
    optimizer = Optimizer(model, steps(0.1 * schedule(20), 0.9), seed=1)
    for t in range(1, 21):
        optimizer.zero_grad()
        solver.backward(fetch(task.train, batch_indices(1, t, 8, 48)))
        optimizer.step()
    assert record["final"] == pytest.approx(evaluate(task, model), rel=1e-5)


@pytest.mark.parametrize(("method", "each"), [("kfac", 2), ("egn", 2), ("newton_cg", None), ("stochastic_lbfgs", None)])
def test_gradient_evaluations_are_what_directions_take(method, each):
    record = train(small.make_task(target=1e9), spec(method, lr=0.05))
    assert record["status"] == "done"
    if each is not None:
        assert record["gradient_evaluations"] == each * 20
        assert record["to_target"]["gradient_evaluations"] == each * record["to_target"]["steps"]
        assert record["to_target"]["samples"] == 8 * record["to_target"]["steps"]
    else:
        assert record["gradient_evaluations"] > 20


def test_state_of_solver_and_chain_is_counted():
    """Of 4 -> 1 with a bias: factors of 5 x 5 and 1 x 1 with their inverses, and a momentum, of five numbers."""
    record = train(small.make_task(), spec("kfac", lr=0.05))
    assert record["state_bytes_per_parameter"] == 4 * (2 * (25 + 1) + 5) / 5


def test_populations_leave_them_alone():
    with pytest.raises(Alone, match="kfac solves for its direction, which takes one model at a time"):
        train_population(small.make_task(), [spec("kfac", seed=s, lr=0.05) for s in (1, 2)])


def test_divergence_is_a_result():
    for method in ("kfac", "egn", "newton_cg"):
        record = train(small.make_task(), spec(method, lr=1e9, steps=40))
        assert record["status"] == "diverged", method


def test_a_simulation_that_does_not_settle_is_divergence():
    def loss(model, batch):
        return 1e4 * small.mse(model, batch)

    assert train(small.make_task(loss=loss), spec("tngd"))["status"] == "diverged"


def test_names_are_found_in_studies():
    found = make_spec(["digits-mlp"], ["kfac", "egn"], spaces={"kfac": {"lr": "1e-2..1"}})
    assert found.methods == ("adamw", "nesterov", "kfac", "egn")
    assert make_spec(["digits-mlp"], ["second_order"]).methods == ("adamw", "nesterov", *STEP_METHODS)
    assert entry_of("kfac") is STEP_METHODS["kfac"]
    assert entry_of("lion") is METHODS["lion"]
    with pytest.raises(FalllineError, match=r"Unknown method 'kfc'. Did you mean kfac"):
        make_spec(["digits-mlp"], ["kfc"])
    with pytest.raises(FalllineError, match="Unknown hyperparameter of kfac"):
        make_spec(["digits-mlp"], ["kfac"], spaces={"kfac": {"rate": "1e-2..1"}})


def test_pages(capsys):
    assert main(["methods"]) == 0
    assert main(["methods", "kfac"]) == 0
    assert main(["claims", "ekfac"]) == 0
    text = capsys.readouterr().out
    for expected in (
        f"{len(STEP_METHODS)} second-order solvers",
        "arXiv:1503.05671",
        "20 bytes of state",
        "2 of 2 claims hold",
    ):
        assert expected in text


def test_a_run_from_the_command_line(capsys):
    assert main(["run", "digits-mlp", "--method", "egn", "--set", "damping=0.1", "--steps", "2"]) == 0
    assert "final" in capsys.readouterr().out
    assert torch.get_num_threads() == 1


def test_a_study_compares_them_with_the_baselines(tmp_path):
    found = run_study(make_spec([SMALL], ["kfac", "egn"], num_seeds=2), tmp_path, num_workers=1)
    (task,) = found["tasks"]
    assert found["study"]["complete"]
    assert task["verdict"]
    by_name = {m["name"]: m for m in task["methods"]}
    assert by_name["kfac"]["label"] == "KFAC"
    assert by_name["kfac"]["tuned"] == ["lr"]
    assert by_name["egn"]["paper"]["arxiv"] == "2405.14402"
    for method in ("kfac", "egn"):
        assert {"steps", "gradient_evaluations", "seconds"} <= set(by_name[method]["to_target"])
        assert by_name[method]["cost"]["state_bytes_per_parameter"] > 0
