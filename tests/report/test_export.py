"""Exports: the same numbers in other tools' formats, and what is said where such a tool is missing."""

import csv
import json
import re

import pytest

from fallline.cli import export as cli_export
from fallline.cli import main
from fallline.core.errors import FalllineError
from fallline.report import export
from fallline.report.export import needs
from fallline.report.export.figures import pictures
from fallline.report.export.rows import curve_rows, run_rows
from report.samples import study, suite

RESULTS = study("adamw nesterov", num_seeds=2, tasks="digits-mlp", shaky="nesterov")
TASK = RESULTS["tasks"][0]
for m in TASK["methods"]:
    m["tunability"] = {"expected_best": [], "basin": None, "default": None, "transfer": None,
                       "cost": {"trials": 6, "gradient_evaluations": 1080, "seconds": 3.0}}  # fmt: skip


def test_runs_at_the_defaults_are_rows_of_their_own_kind():
    changed = json.loads(json.dumps(RESULTS))
    extra = {
        "run": "d",
        "hyper": {"lr": 1e-3, "centered": False},
        "status": "done",
        "final": 9.0,
        "train_seconds": 1.0,
        "command": "c",
    }
    changed["tasks"][0]["methods"][0]["tunability"]["default"] = extra
    (row,) = [r for r in run_rows(changed) if r["kind"] == "default"]
    assert (row["run"], row["seed"], row["final"], row["hyper.lr"]) == ("d", 0, 9.0, 1e-3)
    assert "hyper.centered" not in row


def test_rows_are_every_run_and_every_point_of_a_curve():
    rows = run_rows(RESULTS)
    assert [(r["method"], r["kind"], r["final"]) for r in rows] == [
        (m["name"], kind, r["final"])
        for m in TASK["methods"]
        for kind, of in (("trial", "trials"), ("run", "runs"))
        for r in m[of]
    ]
    assert {r["seed"] for r in rows if r["kind"] == "trial"} == {0}
    assert all(r["hyper.lr"] > 0 for r in rows)
    points = curve_rows(RESULTS)
    assert len(points) == sum(len(r["steps"]) for m in TASK["methods"] for r in m["runs"])
    assert (points[1]["step"], points[1]["metric"]) == (
        TASK["methods"][0]["runs"][0]["steps"][1],
        TASK["methods"][0]["runs"][0]["metric"][1],
    )


@pytest.mark.parametrize("format", ["parquet", "tensorboard", "optuna"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(format, tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(needs, "import_module", missing)
    with pytest.raises(FalllineError, match=re.escape(f"pip install 'fallline[{format}]'")):
        getattr(export, f"write_{format}")(RESULTS, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_beside_the_study_or_elsewhere(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli_export, "load_study", lambda folder: (None, RESULTS))
    assert main(["export", str(tmp_path), "--to", "json"]) == 0
    assert json.loads((tmp_path / "results.json").read_text()) == RESULTS
    assert main(["export", str(tmp_path), "--to", "csv", "--out", str(tmp_path / "new" / "place")]) == 0
    with open(tmp_path / "new" / "place" / "runs.csv") as file:
        assert len(list(csv.DictReader(file))) == len(run_rows(RESULTS))
    assert str(tmp_path / "new" / "place" / "runs.csv") in capsys.readouterr().out
    assert main(["export", str(tmp_path), "--to", "excel"]) == 2


def test_figures_are_svg_and_pdf_in_real_colours_with_fonts_inside(tmp_path):
    (root,) = export.write_figures(RESULTS, tmp_path)
    names = {path.name for path in root.iterdir()}
    assert {
        f"digits-mlp-{kind}.{end}" for kind in ("forest", "curves", "cost", "tuning-adamw-lr") for end in ("svg", "pdf")
    } <= names
    for path in root.glob("*.svg"):
        assert not re.findall(r"#0[ab]00[0-9a-f]{2}|var\(", path.read_text()), path.name
    assert "#0067a5" in (root / "digits-mlp-forest.svg").read_text()  # adamw's colour on paper
    for path in root.glob("*.pdf"):
        assert path.read_bytes().startswith(b"%PDF")
        assert b"/FontFile2" in path.read_bytes(), path.name


def test_a_suite_has_the_figures_of_the_ranking_and_none_of_times_that_are_not_trusted():
    names = {name for name, _ in pictures(suite(2, trusted=False, methods="adamw nesterov"))}
    assert {"profile", "speed-up", "digits-0-best-of"} <= names
    assert not [name for name in names if name.endswith("-cost")]


def test_parquet_holds_the_rows(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    runs, curves = export.write_parquet(RESULTS, tmp_path)
    assert parquet.read_table(runs).to_pylist() == run_rows(RESULTS)
    assert parquet.read_table(curves).num_rows == len(curve_rows(RESULTS))


def test_tensorboard_reads_the_curves_back_and_an_export_replaces_the_last(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        (root,) = export.write_tensorboard(RESULTS, tmp_path)
    run = TASK["methods"][0]["runs"][0]
    home = root / "digits-mlp" / "adamw" / "seed-1"
    assert len(list(home.glob("events.out.tfevents.*"))) == 1
    events = EventAccumulator(str(home)).Reload().Scalars("digits-mlp/validation error")
    assert [e.step for e in events] == run["steps"]
    assert [e.value for e in events] == pytest.approx(run["metric"], rel=1e-6)


def test_optuna_finds_our_best_trial_and_an_export_replaces_the_last(tmp_path):
    optuna = pytest.importorskip("optuna", reason="optuna is not installed")
    for _ in range(2):
        (path,) = export.write_optuna(RESULTS, tmp_path)
    storage = f"sqlite:///{path}"
    assert sorted(optuna.get_all_study_names(storage)) == ["digits-mlp/adamw", "digits-mlp/nesterov"]
    for m in TASK["methods"]:
        loaded = optuna.load_study(storage=storage, study_name=f"digits-mlp/{m['name']}")
        best = min((t for t in m["trials"] if t["final"] is not None), key=lambda t: t["final"])
        assert (loaded.best_value, loaded.best_params) == (best["final"], best["hyper"])
        states = [t.state.name for t in loaded.trials]
        assert states.count("FAIL") == sum(t["final"] is None for t in m["trials"])
        assert len(states) == len(m["trials"])
        assert loaded.user_attrs["fresh seeds"] == {str(r["seed"]): r["final"] for r in m["runs"]}
