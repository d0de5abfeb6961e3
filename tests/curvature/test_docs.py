"""The examples of docs/curvature.md run, in order."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "curvature.md"


def test_examples_of_the_page_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(blocks) >= 5
    scope: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), scope)
    assert scope["again"].converged
    assert scope["density"].num_products == 120
    assert set(scope["layers"]) == {"0", "2"}
    assert scope["last"].shape == (160, 160)
    assert capsys.readouterr().out
