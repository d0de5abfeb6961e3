"""The baselines that come with fallline: they belong to the tasks as they are, and one is repeated."""

import math

import pytest

from fallline.cli import main
from fallline.core.errors import FalllineError
from fallline.core.method import METHODS
from fallline.lab import BUDGETS, RunSpec, train
from fallline.tasks import TASKS, baselines, load

MEASURED = [name for name in TASKS if baselines(name)]


def test_there_are_some_and_none_for_unknown_tasks():
    assert {"digits-mlp", "breast-cancer-logistic"} <= set(MEASURED)
    assert baselines("my_module:make_task") == ()


@pytest.mark.parametrize("name", MEASURED)
def test_an_entry_belongs_to_the_task_as_it_is(name):
    task = TASKS[name]
    for baseline, method in zip(baselines(name), ("adamw", "nesterov"), strict=True):
        assert baseline.method == method
        assert baseline.steps == round(BUDGETS["quick"].step_fraction * task.steps)
        assert len(baseline.seeds) == len(baseline.finals) == 5
        assert baseline.command == f"fallline compare {name} --methods adamw,nesterov --budget quick --seeds 5"
        space = {**METHODS[method].space, **task.spaces.get(method, {})}["lr"]
        assert space.low <= baseline.lr <= space.high
        assert all(x is None or math.isfinite(x) for x in baseline.finals)


def test_a_baseline_can_be_repeated():
    """A convex task: rounding, which differs between runs alone and together, is not amplified."""
    adamw, _ = baselines("breast-cancer-logistic")
    hypers = (("lr", adamw.lr),)
    spec = RunSpec("breast-cancer-logistic", "adamw", hypers, adamw.seeds[0], adamw.steps, "confirm")
    assert train(load("breast-cancer-logistic"), spec)["final"] == pytest.approx(adamw.finals[0], rel=1e-3)


def test_the_card_shows_them(capsys):
    assert main(["tasks", "digits-mlp"]) == 0
    card = capsys.readouterr().out
    for baseline in baselines("digits-mlp"):
        assert f"Tuned    {baseline}" in card
        assert f"{baseline.steps} steps; {baseline.date}, {baseline.command}" in card


@pytest.mark.parametrize("name", TASKS)
def test_every_card_is_complete(name, capsys):
    """Size, licence, budget, target; a stand-in for data in files, a formula for the others."""
    entry = TASKS[name]
    assert main(["tasks", name]) == 0
    card = capsys.readouterr().out
    for line in (
        f"Summary  {entry.summary}",
        f"Licence  {entry.corpus.licence}",
        f"Model    {entry.num_parameters:,} trainable numbers",
        f"Budget   {entry.steps:,} steps of {entry.batch_size} examples; {entry.num_evals} evaluations",
        f"Target   {entry.target:g}: {entry.target_note}",
    ):
        assert line in " ".join(card.split("\n")) or line in card
    assert hasattr(entry.corpus, "twin") or "generated" in entry.corpus.licence


def test_a_task_of_the_user_has_the_same_card(tmp_path, capsys, monkeypatch):
    """The example of docs/tasks.md, as my_module:make_task."""
    from pathlib import Path

    from pages import python_blocks

    page = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()
    (tmp_path / "my_module.py").write_text(python_blocks(page)[-1].replace("make_task().check()", ""))
    monkeypatch.chdir(tmp_path)
    assert main(["tasks", "my_module:make_task"]) == 0
    card = capsys.readouterr().out
    for label in ("Summary", "Examples", "Model", "Budget", "Metric", "Target", "Run", "Compare"):
        assert f"\n{label}" in card
    assert "Tuned" not in card
    with pytest.raises(FalllineError, match="Unknown task"):
        load("my-module")
