"""The command line as a user meets it: exit codes, one-line errors, speed of help, and the whole job end to end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fallline import METHODS
from fallline.cli import main
from fallline.lab.store import Store

SMALL = f"{Path(__file__).parents[1] / 'lab' / 'small.py'}:make_task"


def run(*argv, cwd=None, timeout=120):
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    return subprocess.run(
        [sys.executable, "-m", "fallline", *argv], capture_output=True, text=True, cwd=cwd, env=env, timeout=timeout
    )


def test_help_is_quick_because_torch_stays_out():
    code = "import sys, fallline.cli; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    result = run("--help")
    assert result.returncode == 0
    for command in ("demo", "compare", "resume", "report", "methods", "tasks", "run", "lr", "claims"):
        assert command in result.stdout


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["compare", "digits-mpl"], "Unknown task 'digits-mpl'. Did you mean digits-mlp"),
        (["compare", "digits-mlp", "--methods", "adamv"], "Unknown method 'adamv'. Did you mean adam"),
        (["compare", "digits-mlp", "--budget", "quik"], "--budget"),
        (["compare", "digits-mlp", "--seedz", "3"], "Did you mean --seeds"),
        (
            ["compare", "digits-mlp", "--space", "adamw.lrr=1e-3..1"],
            "Unknown hyperparameter of adamw 'lrr'. Did you mean lr",
        ),
        (["compare", "digits-mlp", "--space", "adamw=1..2"], "Expected METHOD.NAME=LOW..HIGH"),
        (["compare", "digits-mlp", "--space", "adamw.lr=fast"], "'fast' is not a range"),
        (["compare", "nowhere:make_task"], "nowhere"),
        (["compare"], "No task was given"),
        (["compare", "--suite", "tinny"], "Unknown suite 'tinny'. Did you mean tiny"),
        (["comparee"], "Did you mean"),
        (["methods", "lionn"], "Did you mean lion"),
        (["run", "digits-mlp", "--method", "sdg"], "Unknown method 'sdg'. Did you mean"),
        (["bench", "step", "--device", "meta"], "bench got device='meta'. Expected cpu, or cuda"),
        (["bench", "population", "--device", "meta"], "bench got device='meta'. Expected cpu, or cuda"),
        (["diagnose", "digits-mlp", "--method", "kfac"], "diagnose got kfac, which solves for its direction"),
        (["lr", "digits-mlp", "--method", "kfac"], "lr got kfac, which solves for its direction"),
        (["run", "digits-mlp", "--set", "lr"], "Expected NAME=NUMBER"),
        (["run", "digits-mlp", "--set", "lr=-1"], "adamw got lr=-1.0"),
        (["run", "digits-mlp", "--set", "momentun=1"], "Unknown hyperparameter of adamw 'momentun'"),
        (["report", "nowhere"], "holds no study"),
        (["resume", "nowhere"], "holds no study"),
        (["claims", "adamm"], "Did you mean adam"),
    ],
)
def test_mistakes_are_one_clear_line_and_exit_code_2(argv, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.err.startswith("fallline: ")
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.iterdir()), "a refused command left something behind"


def test_a_file_of_ranges(tmp_path, capsys):
    path = tmp_path / "spaces.toml"
    for content, text in {
        "[adamw\n": "is not TOML",
        "lr = 1": "stands outside a table",
        "[adamw]\nlr = 1e-3": "Expected a range as text",
    }.items():
        path.write_text(content)
        assert main(["compare", SMALL, "--spaces", str(path), "--out", str(tmp_path / "s")]) == 2
        assert text in capsys.readouterr().err
    assert main(["compare", SMALL, "--spaces", str(tmp_path / "none.toml")]) == 2
    assert "Cannot read" in capsys.readouterr().err
    path.write_text('[lion]\nlr = "0.01..0.02"\n')
    assert main(["compare", SMALL, "--spaces", str(path), "--seeds", "1", "--out", str(tmp_path / "s")]) == 0
    results = json.loads((tmp_path / "s" / "results.json").read_text())
    assert results["tasks"][0]["methods"][2]["space"]["lr"] == "0.01..0.02"


def test_compare_resume_and_report(tmp_path, capsys):
    out = str(tmp_path / "study")
    argv = ["compare", SMALL, "--methods", "lion", "--seeds", "7", "--out", out]
    assert main(argv) == 0
    text = capsys.readouterr().out
    assert "report" in text
    assert "small" in text
    report = (tmp_path / "study" / "report.html").read_text()
    results = json.loads((tmp_path / "study" / "results.json").read_text())
    for again in (argv, ["resume", out], ["report", out]):
        assert main(again) == 0
        assert json.loads((tmp_path / "study" / "results.json").read_text())["tasks"] == results["tasks"]
    assert "Verdict" in report
    assert main([*argv[:-3], "5", "--out", out]) == 2
    assert "holds another study" in capsys.readouterr().err


def test_run_reproduces_a_number_of_the_report(tmp_path, capsys):
    main(["compare", SMALL, "--methods", "lion", "--seeds", "2", "--out", str(tmp_path)])
    results = json.loads((tmp_path / "results.json").read_text())
    row = results["tasks"][0]["methods"][2]["runs"][1]
    capsys.readouterr()
    import shlex

    assert main(shlex.split(row["command"])[1:]) == 0
    assert repr(row["final"]) in capsys.readouterr().out


def test_catalogue_pages(capsys):
    assert main(["methods"]) == 0
    assert main(["methods", "radam"]) == 0
    assert main(["tasks"]) == 0
    assert main(["claims", "lion", "adamw"]) == 0
    text = capsys.readouterr().out
    for expected in ("arXiv:1908.03265", f"{len(METHODS)} methods", "digits-mlp", "3 of 3 claims hold"):
        assert expected in text


def test_suites_are_lists_of_tasks_in_one_place(capsys, monkeypatch, tmp_path):
    from fallline.cli import study
    from fallline.tasks import SUITES, TASKS

    assert set(SUITES["tiny"]) < set(SUITES["core"]) < set(SUITES["all"]) == set(TASKS)
    assert main(["tasks"]) == 0
    text = capsys.readouterr().out
    for name in ("tiny", "core"):
        assert f"--suite {name:<6}{', '.join(SUITES[name])}\n" in text
    asked = []
    monkeypatch.setattr(study, "_run", lambda spec, folder, workers: asked.append((spec, folder)) or 0)
    assert main(["compare", "--suite", "tiny"]) == 0
    assert main(["compare", SMALL, "--suite", "tiny", "--methods", "sgd"]) == 0
    (spec, folder), (mixed, other) = asked
    assert spec.tasks == SUITES["tiny"]
    assert spec.methods == ("adamw", "nesterov", "lion", "muon")
    assert str(folder) == "fallline-tiny-quick"
    assert mixed.tasks == (SMALL, *SUITES["tiny"])
    assert mixed.methods == ("adamw", "nesterov", "sgd")
    assert str(other) == "fallline-small-tiny-quick"


def test_the_card_of_a_task_says_all_there_is_to_know(capsys):
    assert main(["tasks", "quadratic"]) == 0
    card = capsys.readouterr().out
    for line in (
        "quadratic\nLeast squares with a Hessian",
        "Data     linear equations with a prescribed spectrum; made by fallline.tasks.quadratic",
        "Licence  Apache-2.0, generated",
        "Examples 128 to train on, 128 to validate on",
        "Model    64 trainable numbers",
        "steps of 128 examples; 20 evaluations",
        "Metric   log10 of the loss, lower is better",
        "Target   -3.7: tuned Nesterov reaches it",
        "Range    adamw: lr 0.001..10",
        "Run      fallline run quadratic --method adamw",
        "Compare  fallline compare quadratic",
    ):
        assert line in card


def test_a_task_of_the_user_has_a_card_too(capsys):
    assert main(["tasks", SMALL]) == 0
    card = capsys.readouterr().out
    assert card.startswith(
        "small\nSummary  linear regression\nExamples 48 to train on, 16 to validate on\nModel    5 trainable"
    )
    assert f"fallline run {SMALL}" in card
    assert main(["tasks", "quadratik"]) == 2
    assert "Did you mean quadratic" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -m fallline methods | head -1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert "Traceback" not in result.stderr


def test_the_demo_end_to_end_killed_and_resumed(tmp_path):
    """The README's first command: SIGKILL half-way, then again; the report opens the way it should."""
    argv = [sys.executable, "-m", "fallline", "demo", "--out", str(tmp_path / "demo")]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while _finished(tmp_path / "demo") < 20 and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = _finished(tmp_path / "demo")
    result = run("demo", "--out", str(tmp_path / "demo"), timeout=300)
    assert result.returncode == 0, result.stderr
    assert kept >= 20
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert (
        results["study"]["runs"] == {"planned": 100, "done": 100, "diverged": 0, "failed": 0}
        or results["study"]["runs"]["diverged"] > 0
    )
    verdicts = {t["name"]: t["verdict"]["kind"] for t in results["tasks"]}
    assert verdicts["deep-autoencoder"] in ("winner", "group"), "the methods differ clearly on this task"
    html = (tmp_path / "demo" / "report.html").read_text()
    assert len(html) < 2_000_000
    assert str(tmp_path / "demo" / "report.html") in result.stdout


def _finished(folder):
    try:
        with Store(folder) as store:
            return len(store.results())
    except Exception:
        return 0
