"""docs/second_order.md: its examples run in order, and every public name is on the page."""

import re
from pathlib import Path

from fallline import second_order

PAGE = (Path(__file__).parents[2] / "docs" / "second_order.md").read_text()


def test_the_examples_of_the_page_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len(blocks) == 4
    scope: dict = {}
    for block in blocks:
        exec(compile(block, "docs/second_order.md", "exec"), scope)
    assert scope["found"].converged
    assert "0.a_inverse" in scope["saved"]
    assert scope["hessian_free"].state["last"].numel() == 837
    assert capsys.readouterr().out


def test_every_name_is_on_the_page():
    named = set(re.findall(r"`(\w+)", PAGE))
    assert set(second_order.__all__) - {"KernelModel", "LevenbergMarquardt", "Solution", "Solver"} - named == set()


def test_every_test_that_the_page_names_exists():
    source = "".join(p.read_text() for p in Path(__file__).parent.glob("test_*.py"))
    assert [name for name in re.findall(r"`(test_\w+)`", PAGE) if f"def {name}" not in source] == []
