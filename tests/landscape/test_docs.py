"""The examples of docs/landscape.md run, in order, as one program."""

import re
from pathlib import Path

import fallline.landscape
from pages import python_blocks, run_blocks

PAGE = Path(__file__).parents[2] / "docs" / "landscape.md"
BLOCKS = python_blocks(PAGE.read_text())


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_blocks(BLOCKS)
    assert (tmp_path / "slice.svg").stat().st_size > 1000
    assert names["matched"].after > names["matched"].before
    assert names["curve"].path.highest < names["line"].highest


def test_every_public_name_is_on_the_page():
    text = PAGE.read_text()
    assert [name for name in fallline.landscape.__all__ if not re.search(rf"\b{name}\b", text)] == []
