"""A diagnosis names the cause, shows the effect of its remedy, and its runs are those of ``fallline run``."""

import dataclasses

import pytest

from fallline.cli import main
from fallline.core.errors import FalllineError
from fallline.lab.diagnose import diagnose
from fallline.lab.run import train
from fallline.report.diagnosis import render_diagnosis
from fallline.tasks import load


@pytest.fixture(scope="module")
def too_high():
    return diagnose(load("digits-mlp"), "nesterov", {"lr": 30.0}, steps=60)


def test_a_rate_that_is_too_high_is_named_and_remedied(too_high):
    assert any(f.weight > 1 for f in too_high.trial.findings)
    text, better = too_high.best
    assert dict(better.spec.hypers)["lr"] < 30.0
    assert "the learning rate 30 is too high" in too_high.verdict
    assert text in too_high.verdict


def test_its_runs_are_those_of_a_study(too_high):
    trial = too_high.changes[0][1]
    assert trial.final == pytest.approx(train(too_high.task, trial.spec)["final"], rel=1e-6)


def test_the_page_shows_runs_findings_and_figures(too_high):
    page = render_diagnosis(too_high, "fallline diagnose digits-mlp")
    assert too_high.verdict in page.replace("&#39;", "'")
    assert page.count("<figure>") >= 4
    for _, trial in too_high.changes:
        assert trial.spec.command in page.replace("&#39;", "'")
    assert "http" not in page.split("</style>")[1].replace("http://www.w3.org", "")


def test_a_good_rate_is_left_alone():
    found = diagnose(load("digits-mlp"), "adamw", {"lr": 1e-2}, steps=60)
    assert len(found.changes) == 2
    assert found.best is None or found.gain(found.best[1]) < 1
    assert found.trial.spec.method in found.verdict


def test_too_little_data_is_no_conclusion():
    found = diagnose(load("digits-mlp"), "adamw", steps=5)
    assert not found.changes
    assert "No conclusion from 5 steps" in found.verdict


def test_the_command_prints_a_verdict_and_writes_the_page(tmp_path, capsys):
    out = tmp_path / "page.html"
    assert main(["diagnose", "digits-mlp", "--method", "sgd", "--lr", "0.1", "--steps", "30", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "sgd on digits-mlp ended at" in said
    assert "as given" in said
    assert out.read_text().startswith("<!DOCTYPE html>")


def test_mistakes_are_errors():
    with pytest.raises(FalllineError, match="lr=-1"):
        diagnose(load("digits-mlp"), "adamw", {"lr": -1.0})
    with pytest.raises(FalllineError, match="steps=-3"):
        diagnose(load("digits-mlp"), "adamw", steps=-3)


def test_a_run_whose_gradients_are_never_finite_is_diagnosed_and_no_failure():
    task = load("digits-mlp")

    def loss(model, batch):
        return task.loss(model, batch) + sum((0 * p).abs().sqrt().sum() for p in model.parameters())

    found = diagnose(dataclasses.replace(task, loss=loss), "sgd", {"lr": 0.01}, steps=120)
    assert "the optimizer gave up" in found.trial.findings[0].text
    assert found.trial.record.skipped == 100
