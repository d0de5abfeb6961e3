"""The examples of docs/landscape.md run, in order, as one program."""

import re
from pathlib import Path

import fallline.landscape

PAGE = Path(__file__).parents[2] / "docs" / "landscape.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), names)
    assert (tmp_path / "slice.svg").stat().st_size > 1000
    assert names["matched"].after > names["matched"].before
    assert names["curve"].path.highest < names["line"].highest


def test_every_public_name_is_on_the_page():
    text = PAGE.read_text()
    assert [name for name in fallline.landscape.__all__ if not re.search(rf"\b{name}\b", text)] == []
