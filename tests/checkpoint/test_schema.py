"""Schema versions: kept files load for ever, newer ones are refused, older ones are migrated."""

import sys
from pathlib import Path

import pytest
import torch

from fallline.checkpoint import CheckpointError, load, load_sharded, read, save, save_sharded, schema

FIXTURES = Path(__file__).parent / "fixtures"


def fixture():
    sys.path.insert(0, str(FIXTURES))
    try:
        import make
    finally:
        sys.path.pop(0)
    return make


def test_the_kept_file_of_schema_1_loads():
    make = fixture()
    model, optimizer = make.parts()
    expected = [p.clone() for p in model.parameters()], str(optimizer.state_dict())
    for p in model.parameters():
        p.data.zero_()
        p.grad = torch.ones_like(p)
    optimizer.step()
    extra = load(FIXTURES / "schema_1.ckpt", model=model, optimizer=optimizer)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected[0], strict=True))
    assert str(optimizer.state_dict()) == expected[1]
    assert str(extra) == str(make.EXTRA)


def older(monkeypatch):
    """A made-up schema 0, in which extra held its epoch as text."""
    monkeypatch.setattr(schema, "SCHEMA", 0)


def migrate(parts):
    return {**parts, "extra": {**parts["extra"], "epoch": int(parts["extra"]["epoch"])}}


@pytest.mark.parametrize(("write", "fetch"), [(save, load), (save_sharded, load_sharded)], ids=["file", "sharded"])
def test_older_schemas_are_migrated(tmp_path, monkeypatch, write, fetch):
    with monkeypatch.context() as patch:
        older(patch)
        write(tmp_path / "run", extra={"epoch": "3"})
    with pytest.raises(
        CheckpointError, match=r"has schema 0, written by fallline .* no migration from schema 0\. Load and save"
    ):
        fetch(tmp_path / "run")
    monkeypatch.setitem(schema.MIGRATIONS, 0, migrate)
    assert fetch(tmp_path / "run") == {"epoch": 3}


def test_migrations_are_chained_and_keep_the_files_own_schema_in_meta(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        older(patch)
        save(tmp_path / "run", extra={"epoch": "3"})
    monkeypatch.setattr(schema, "SCHEMA", 2)
    monkeypatch.setitem(schema.MIGRATIONS, 0, migrate)
    monkeypatch.setitem(schema.MIGRATIONS, 1, lambda parts: {**parts, "extra": parts["extra"]["epoch"]})
    assert read(tmp_path / "run")["extra"] == 3
    assert read(tmp_path / "run")["meta"]["schema"] == 0


def test_newer_schemas_are_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(schema, "SCHEMA", 2)
        save(tmp_path / "run", extra=1)
    with pytest.raises(
        CheckpointError, match=r"has schema 2, written by fallline .*reads up to schema 1\. Upgrade fallline"
    ):
        load(tmp_path / "run")
