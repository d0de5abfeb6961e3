"""docs/dynamics.md: its code runs, in order, and it shows the figures that the script draws."""

import importlib.util
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "dynamics.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def figures():
    spec = importlib.util.spec_from_file_location("dynamics_figures", ROOT / "tools" / "dynamics_figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_code_of_the_page_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 21
    scope = {}
    for block in blocks:
        exec(compile(block, "docs/dynamics.md", "exec"), scope)
    assert "edge of stability" in capsys.readouterr().out


def test_the_page_shows_every_figure_of_the_script(figures):
    shown = re.findall(r"!\[[^\]]+\]\(figures/dynamics-([\w-]+)\.svg\)", PAGE)
    assert sorted(shown) == sorted(figures.ALL)
    for name in shown:
        drawn = ET.parse(figures.FIGURES / f"dynamics-{name}.svg").getroot()
        assert drawn.attrib["aria-label"]


@pytest.mark.parametrize("name", ["regimes", "momentum", "alpha", "principal", "game"])
def test_a_figure_drawn_anew_has_the_words_and_ends_of_the_one_in_the_page(figures, name):
    """The cheap ones. What is drawn depends on rounding, and so on the machine; where lines end does not, to four digits."""
    stored = ET.parse(figures.FIGURES / f"dynamics-{name}.svg").getroot().attrib["aria-label"]
    assert ET.fromstring(figures.ALL[name]().svg()).attrib["aria-label"] == stored
