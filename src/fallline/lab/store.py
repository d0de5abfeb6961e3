"""The store: one SQLite file in WAL mode, one transaction per finished run. SIGKILL loses at most the runs in flight."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fallline.core.errors import FalllineError

__all__ = ["FILE", "SCHEMA", "Store", "check_writable", "no_study"]

SCHEMA = 1
FILE = "study.db"
_APPLICATION_ID = 0x66616C6C  # "fall": tells our files from other SQLite files
_MIN_FREE_BYTES = 50 * 2**20
_PATIENCE = 5.0  # seconds for others to let go of the file


class Store:
    """The runs of one study, by id. Opening creates the file, or checks that it belongs to the same study."""

    def __init__(self, folder: Path, spec: Mapping[str, Any] | None = None) -> None:
        """Open the study in ``folder``; ``spec`` creates it if there is none, and must equal the stored one otherwise.

        Raises FalllineError if the file is foreign, damaged, of another version or of another study; nothing is changed.
        """
        self.path = folder / FILE
        if spec is None and not self.path.exists():
            raise no_study(folder)
        patience = time.monotonic() + _PATIENCE
        while True:
            try:
                self._open(spec)
                return
            except sqlite3.OperationalError as error:
                # Others may be creating or closing the file just now; for the switch to WAL, SQLite itself does not wait.
                if time.monotonic() > patience:
                    raise self._damaged(error) from None
                time.sleep(0.02)
            except sqlite3.DatabaseError as error:
                raise self._damaged(error) from None

    def _open(self, spec: Mapping[str, Any] | None) -> None:
        if self.path.exists() and self.path.stat().st_size:
            self._check_file()
        self._db = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._create(spec)
        except BaseException:
            self._db.close()
            raise

    def _check_file(self) -> None:
        """Look before touching: a read-only look leaves a foreign or damaged file exactly as it was."""
        look = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            look.execute("BEGIN")  # one moment for all questions: another process may be creating the study
            (application,) = look.execute("PRAGMA application_id").fetchone()
            (version,) = look.execute("PRAGMA user_version").fetchone()
            (health,) = look.execute("PRAGMA quick_check(1)").fetchone()
            tables = look.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        finally:
            look.close()
        if tables and application != _APPLICATION_ID:
            raise FalllineError(
                f"{self.path} is a database of another program. Expected a fallline study. Choose another folder with --out."
            )
        if tables and version != SCHEMA:
            raise FalllineError(
                f"{self.path} was written by another version of fallline (schema {version}). This one reads schema {SCHEMA}. "
                f"Install the version that wrote it, or choose another folder with --out."
            )
        if health != "ok":
            raise self._damaged(health)

    def _damaged(self, why: object) -> FalllineError:
        return FalllineError(
            f"{self.path} cannot be read as a study ({why}). Expected an undamaged SQLite file. Restore it from a copy, or "
            f"choose another folder with --out; nothing was changed."
        )

    def _create(self, spec: Mapping[str, Any] | None) -> None:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            db.execute("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
            db.execute(
                "CREATE TABLE IF NOT EXISTS runs "
                "(id TEXT PRIMARY KEY, spec TEXT NOT NULL, result TEXT NOT NULL, finished TEXT NOT NULL)"
            )
            db.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            db.execute(f"PRAGMA user_version={SCHEMA}")
            held = db.execute("SELECT value FROM meta WHERE key='spec'").fetchone()
            if spec is not None:
                if held is None:
                    db.execute("INSERT INTO meta VALUES ('spec', ?)", (json.dumps(spec, sort_keys=True),))
                    db.execute("INSERT INTO meta VALUES ('started', ?)", (now(),))
                elif json.loads(held[0]) != json.loads(json.dumps(spec)):
                    raise self._another_study(json.loads(held[0]), json.loads(json.dumps(spec)))
            elif held is None:
                raise self._damaged("it has no study in it")
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise

    def _another_study(self, held: Mapping[str, Any], asked: Mapping[str, Any]) -> FalllineError:
        differing = [k for k in {**held, **asked} if held.get(k) != asked.get(k)]
        text = "; ".join(f"{k} {_short(held.get(k))}, not {_short(asked.get(k))}" for k in differing)
        return FalllineError(
            f"{self.path.parent} holds another study ({text}). A folder holds one study. Choose another with --out, or go on "
            f"with this one: fallline resume {self.path.parent}"
        )

    def meta(self, key: str) -> Any:
        """A stored fact about the study: ``spec``, ``started`` ...; None if it is not there."""
        row = self._db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return None if row is None else json.loads(row[0]) if key == "spec" else row[0]

    def put_meta(self, key: str, value: str) -> None:
        """Store a fact about the study, replacing an older one."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def record(self, run_id: str, spec: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Store one finished run, at once and durably; a run that is there already stays as it is."""
        row = (run_id, json.dumps(spec), json.dumps(result, allow_nan=False), now())
        self._db.execute("INSERT OR IGNORE INTO runs VALUES (?, ?, ?, ?)", row)

    def results(self) -> dict[str, dict[str, Any]]:
        """Every finished run's record by id."""
        return {i: json.loads(result) for i, result in self._db.execute("SELECT id, result FROM runs ORDER BY id")}

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def no_study(folder: Path) -> FalllineError:
    """What to raise where a folder has no study in it."""
    return FalllineError(
        f"{folder} holds no study: {FILE} is missing. Expected a folder that 'fallline compare' made. "
        f"Check the path, or start one with: fallline compare TASK --out {folder}"
    )


def check_writable(folder: Path) -> None:
    """Make the folder, and find out before training whether results can be written there.

    Raises FalllineError without write access, where a file is in the way, or with less than 50 MiB free.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise FalllineError(
            f"Cannot write to {folder} ({error.strerror or error}). A study needs a folder it may write to. Choose another "
            f"with --out."
        ) from None
    free = shutil.disk_usage(folder).free
    if free < _MIN_FREE_BYTES:
        raise FalllineError(
            f"Only {free / 2**20:.0f} MiB are free at {folder}. A study needs {_MIN_FREE_BYTES / 2**20:.0f} MiB. Free some "
            f"space, or choose another folder with --out."
        )


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _short(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
