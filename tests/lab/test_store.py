"""The store: durable, exclusive to its study, and careful with files that are not its own."""

import sqlite3
import threading

import pytest

from fallline.core.errors import FalllineError
from fallline.lab.store import Store, check_writable

SPEC = {"tasks": ["small"], "num_seeds": 3}


def test_runs_survive_and_are_recorded_once(tmp_path):
    with Store(tmp_path, SPEC) as store:
        store.record("a", {}, {"final": 1.0})
        store.record("a", {}, {"final": 2.0})
    with Store(tmp_path, SPEC) as store:
        assert store.results() == {"a": {"final": 1.0}}
        assert store.meta("spec") == SPEC
        assert store.meta("nothing") is None


def test_nan_is_refused_rather_than_stored(tmp_path):
    with Store(tmp_path, SPEC) as store, pytest.raises(ValueError, match="JSON"):
        store.record("a", {}, {"final": float("nan")})


def test_another_study_is_not_overwritten(tmp_path):
    Store(tmp_path, SPEC).close()
    before = (tmp_path / "study.db").read_bytes()
    with pytest.raises(FalllineError, match=r"holds another study \(num_seeds 3, not 5\).*fallline resume"):
        Store(tmp_path, {**SPEC, "num_seeds": 5})
    assert (tmp_path / "study.db").read_bytes() == before


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda p: p.write_bytes(b"not a database" * 100), r"cannot be read as a study .*nothing was changed"),
        (
            lambda p: sqlite3.connect(p).execute("CREATE TABLE theirs (x)").connection.commit(),
            r"a database of another program",
        ),
        (lambda p: _stamp(p, "user_version=99"), r"another version of fallline \(schema 99\)"),
        (lambda p: _truncate(p), r"cannot be read as a study"),
    ],
    ids=["junk", "foreign", "newer", "truncated"],
)
def test_files_that_are_not_ours_are_left_alone(tmp_path, make, text):
    path = tmp_path / "study.db"
    make(path)
    before = path.read_bytes()
    with pytest.raises(FalllineError, match=text):
        Store(tmp_path, SPEC)
    assert path.read_bytes() == before


def _stamp(path, pragma):
    Store(path.parent, SPEC).close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA {pragma}")
    db.commit()
    db.close()


def _truncate(path):
    with Store(path.parent, SPEC) as store:
        for i in range(200):
            store.record(f"run{i}", {}, {"curve": list(range(100))})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_a_folder_without_study_says_how_to_make_one(tmp_path):
    with pytest.raises(FalllineError, match=r"holds no study: study\.db is missing.*fallline compare"):
        Store(tmp_path)
    assert not list(tmp_path.iterdir())


def test_many_openers_at_once_create_one_study(tmp_path):
    errors = []

    def open_it():
        try:
            Store(tmp_path, SPEC).close()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_file_that_others_hold_for_a_moment_is_waited_for(tmp_path, monkeypatch):
    opened, calls = Store._open, []

    def held_twice(store, spec):
        calls.append(spec)
        if len(calls) < 3:
            raise sqlite3.OperationalError("database is locked")
        opened(store, spec)

    monkeypatch.setattr(Store, "_open", held_twice)
    Store(tmp_path, SPEC).close()
    assert len(calls) == 3
    monkeypatch.setattr("fallline.lab.store._PATIENCE", 0.0)
    calls.clear()
    with pytest.raises(FalllineError, match=r"cannot be read as a study \(database is locked\)"):
        Store(tmp_path, SPEC)


def test_a_folder_that_cannot_be_written_is_said_before_training(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(FalllineError, match=r"Cannot write to .*file.*Choose another with --out"):
        check_writable(tmp_path / "file")
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2**20})())
    with pytest.raises(FalllineError, match=r"Only 1 MiB are free"):
        check_writable(tmp_path)
