"""The examples of docs/curvature.md run, in order."""

from pathlib import Path

from pages import python_blocks, run_blocks

PAGE = Path(__file__).parents[2] / "docs" / "curvature.md"


def test_examples_of_the_page_run(capsys):
    blocks = python_blocks(PAGE.read_text())
    assert len(blocks) >= 5
    scope = run_blocks(blocks)
    assert scope["again"].converged
    assert scope["density"].num_products == 120
    assert set(scope["layers"]) == {"0", "2"}
    assert scope["last"].shape == (160, 160)
    assert capsys.readouterr().out
