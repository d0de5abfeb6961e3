"""Looking at a study while another process runs it: read-only, without a lock that the writer would wait for."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from fallline.core.errors import FalllineError
from fallline.lab.store import FILE, SCHEMA, no_study
from fallline.lab.study import StudySpec

__all__ = ["Finished", "Snapshot", "read_study"]


@dataclass(frozen=True)
class Finished:
    """A run that is in the store: what it was, how it ended and when."""

    task: str
    method: str
    hypers: Mapping[str, float]
    purpose: str
    final: float | None
    diverged: bool
    seconds: float
    at: datetime


@dataclass(frozen=True)
class Snapshot:
    """A study at one moment; ``runs`` in the order in which they finished, ``finished`` once all are there."""

    spec: StudySpec
    finished: bool
    runs: list[Finished]


def read_study(folder: Path) -> Snapshot:
    """The study in ``folder`` as it is now. Neither writes nor waits, and leaves no file behind.

    Raises FalllineError where there is no study, or none that this version reads.
    """
    path = folder / FILE
    if not path.exists():
        raise no_study(folder)
    try:
        with closing(_connect(path)) as db:
            db.execute("BEGIN")  # one moment for all questions
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version not in (0, SCHEMA):
                raise FalllineError(
                    f"{path} was written by another version of fallline (schema {version}). This one reads schema {SCHEMA}. "
                    f"Install the version that wrote it."
                )
            meta = dict(db.execute("SELECT key, value FROM meta"))
            rows = db.execute("SELECT spec, result, finished FROM runs ORDER BY finished, id").fetchall()
        spec = TypeAdapter(StudySpec).validate_python(json.loads(meta["spec"]))
    except (sqlite3.DatabaseError, KeyError) as error:
        raise FalllineError(
            f"{path} cannot be read as a study ({error}). Expected an undamaged SQLite file. If a study is just starting "
            f"there, try again; else restore the file from a copy."
        ) from None
    return Snapshot(spec, "finished" in meta, [_finished(json.loads(s), json.loads(r), at) for s, r, at in rows])


def _connect(path: Path) -> sqlite3.Connection:
    """Read-only. A writer keeps a WAL file beside the database; without one nobody writes, and SQLite need not make one."""
    alone = "" if path.with_name(f"{path.name}-wal").exists() else "&immutable=1"
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro{alone}", uri=True, isolation_level=None)


def _finished(spec: Mapping[str, Any], result: Mapping[str, Any], at: str) -> Finished:
    return Finished(
        task=spec["task"],
        method=spec["method"],
        hypers=dict(spec["hypers"]),
        purpose=spec["purpose"],
        final=result["final"],
        diverged=result["status"] == "diverged",
        seconds=result["train_seconds"],
        at=datetime.fromisoformat(at),
    )
