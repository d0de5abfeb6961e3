"""The view of a study: what it says, and that the process that runs the study never notices."""

import io
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from fallline.cli import main, watch
from fallline.core.errors import FalllineError
from fallline.lab import Finished, Snapshot, make_spec, read_study, run_study
from fallline.lab.store import Store
from fallline.tasks import TASKS

SMALL = f"{Path(__file__).parents[1] / 'lab' / 'small.py'}:make_task"
SPEC = make_spec(["digits-mlp"], [], "quick", 2, extras=False)
SPEC_SMALL = make_spec([SMALL], [], "quick", 1, extras=False)
START = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


def finished(method="adamw", purpose="tune", final=1.0, seconds=2.0, after=0.0, diverged=False):
    return Finished(
        "digits-mlp", method, {"lr": 0.01}, purpose, final, diverged, seconds, START + timedelta(seconds=after)
    )


def record(store, method, index, purpose="tune", final=1.0):
    spec = {"task": "digits-mlp", "method": method, "hypers": [["lr", 0.01]], "seed": 0, "steps": 9, "purpose": purpose}
    status = "diverged" if final is None else "done"
    store.record(f"{method}{index}{purpose}", spec, {"final": final, "status": status, "train_seconds": 1.0})


def test_rows_count_what_is_there_and_name_the_best():
    runs = [finished(final=x) for x in (3.0, 2.0, 4.0)] + [finished(final=None, diverged=True)]
    runs += [finished("nesterov", final=None, diverged=True) for _ in range(8)]
    adamw, nesterov = watch.rows(Snapshot(SPEC, False, runs), {"digits-mlp": TASKS["digits-mlp"].metric})
    assert (adamw.trials, adamw.seeds, adamw.diverged, adamw.best.final) == ((4, 8), (0, 2), 1, 2.0)
    assert (nesterov.trials, nesterov.seeds, nesterov.diverged, nesterov.best) == ((8, 8), (0, 0), 8, None)
    assert (adamw.left, nesterov.left) == (6, 0)


def test_runs_at_the_defaults_are_neither_trials_nor_fresh_seeds():
    spec = make_spec(["digits-mlp"], [], "quick", 2, extras=True)
    runs = [finished(final=3.0), finished(purpose="default", final=0.5), finished("nesterov", purpose="transfer")]
    adamw, nesterov = watch.rows(Snapshot(spec, False, runs), {"digits-mlp": TASKS["digits-mlp"].metric})
    assert (adamw.trials, adamw.seeds, adamw.extras, adamw.best.final) == ((1, 8), (0, 2), (1, 1), 3.0)
    assert (nesterov.trials, nesterov.extras) == ((0, 8), (1, 2))


def test_time_left_is_the_missing_work_at_the_pace_so_far_without_pauses():
    # Two CPU seconds a run, one finished every second (two workers); an hour's pause in between.
    runs = [finished(after=t) for t in (0, 1, 2, 3602, 3603)]
    table = watch.rows(Snapshot(SPEC, False, runs), {"digits-mlp": None})
    missing = (8 - 5 + 2) + (8 + 2)
    assert watch.seconds_left(table, runs) == pytest.approx(missing * 2.0 * (1 / 2))
    assert watch.seconds_left(table, runs[:2]) is None


def test_the_writer_is_not_disturbed_and_its_open_transaction_not_seen(tmp_path):
    with Store(tmp_path, SPEC.declared) as store:
        record(store, "adamw", 0)
        store._db.execute("BEGIN IMMEDIATE")
        record(store, "adamw", 1)
        assert len(read_study(tmp_path).runs) == 1
        store._db.execute("COMMIT")
        assert len(read_study(tmp_path).runs) == 2
        # nothing is left open that would keep the log from being emptied
        busy, _, _ = store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert not busy


def test_a_finished_study_is_left_as_it_was(tmp_path):
    with Store(tmp_path, SPEC.declared) as store:
        record(store, "adamw", 0)
        store.put_meta("finished", "now")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert read_study(tmp_path).finished
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_killed_study_can_be_read(tmp_path):
    with Store(tmp_path, SPEC.declared) as store:
        record(store, "adamw", 0)
        shutil.copytree(tmp_path, tmp_path / "killed", ignore=shutil.ignore_patterns("*-shm", "killed"))
    assert (tmp_path / "killed" / "study.db-wal").stat().st_size
    assert len(read_study(tmp_path / "killed").runs) == 1


def test_a_folder_without_a_study_and_a_file_that_is_none(tmp_path):
    with pytest.raises(FalllineError, match="holds no study"):
        read_study(tmp_path)
    (tmp_path / "study.db").write_text("something else, long enough to be no empty database")
    with pytest.raises(FalllineError, match="cannot be read as a study"):
        read_study(tmp_path)
    (tmp_path / "new").mkdir()
    with Store(tmp_path / "new", SPEC.declared) as store:
        store._db.execute("PRAGMA user_version=99")
    with pytest.raises(FalllineError, match="another version"):
        read_study(tmp_path / "new")


def test_one_plain_snapshot_where_output_is_no_terminal(tmp_path, capsys):
    counts = run_study(SPEC_SMALL, tmp_path, 1)["study"]["runs"]
    assert main(["watch", str(tmp_path)]) == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == f"study     {tmp_path}: 18 of 18 runs, {counts['diverged']} diverged"
    assert lines[1].split() == ["task", "method", "trials", "diverged", "seeds", "best", "so", "far"]
    assert [line.split()[:3] for line in lines[2:4]] == [
        ["small.py:make_task", "adamw", "8/8"],
        ["small.py:make_task", "nesterov", "8/8"],
    ]
    assert lines[-1] == f"finished  report: {tmp_path / 'report.html'}"
    assert main(["watch", str(tmp_path / "nowhere")]) == 2
    assert "holds no study" in capsys.readouterr().err


def test_on_a_terminal_it_follows_to_the_end(tmp_path, monkeypatch):
    screen = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(watch, "console", lambda: screen)
    with Store(tmp_path, SPEC.declared) as store:
        news = iter(
            [
                *(lambda i=i: record(store, "adamw", i, final=float(i)) for i in range(8)),
                lambda: store.put_meta("finished", "now"),
            ]
        )
        monkeypatch.setattr(watch.time, "sleep", lambda seconds: next(news)())
        assert main(["watch", str(tmp_path)]) == 0
    text = screen.file.getvalue()
    for k in range(9):
        assert f"{tmp_path}: {k} of 20 runs" in text
    assert "finished  report:" in text[text.rindex(" 8 of 20 runs") :]


def test_leaving_with_ctrl_c_is_no_error(tmp_path, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(watch, "console", lambda: Console(file=io.StringIO(), force_terminal=True, width=120))
    monkeypatch.setattr(watch.time, "sleep", interrupt)
    with Store(tmp_path, SPEC.declared):
        assert main(["watch", str(tmp_path)]) == 0
