"""docs/lecture.md: its code runs, section by section; its figures are there, and what tools/lecture_figures.py draws."""

import re
import sys
from pathlib import Path

import pytest

from pages import python_blocks, run_blocks

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "lecture.md").read_text(encoding="utf-8")
OPENING, *SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)
SECTIONS = {text.partition("\n")[0]: text for text in SECTIONS}
WITH_CODE = {title: blocks for title, text in SECTIONS.items() if (blocks := python_blocks(text))}
NUMBER = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")


@pytest.fixture(scope="module")
def figures():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import lecture_figures
    finally:
        sys.path.pop(0)
    return lecture_figures


@pytest.mark.parametrize("title", WITH_CODE)
def test_the_code_of_a_section_runs(title):
    run_blocks([*python_blocks(OPENING), *WITH_CODE[title]])


def test_every_section_has_code_but_the_one_that_lists_remedies():
    assert set(SECTIONS) - set(WITH_CODE) == {"What makes it hard"}


def test_every_figure_is_on_the_page_once(figures):
    shown = re.findall(r"\]\(figures/lecture-([\w-]+)\.svg\)", PAGE)
    there = [p.stem.removeprefix("lecture-") for p in (ROOT / "docs" / "figures").glob("lecture-*.svg")]
    assert sorted(shown) == sorted(there) == sorted(figures.FIGURES)


def numbers(svg: str) -> list[float]:
    label = re.search(r'aria-label="([^"]*)"', svg)[1]
    return [float(n) for n in NUMBER.findall(label.replace("−", "-"))]


@pytest.mark.parametrize("name", ["convergence", "schedules", "restarts", "growth", "critical", "signal", "norms", "tilts", "sharpness-aware"])  # fmt: skip
def test_a_figure_is_as_drawn(figures, name):
    """The others take a few seconds each, and the edge of stability is chaotic."""
    kept = (ROOT / "docs" / "figures" / f"lecture-{name}.svg").read_text(encoding="utf-8")
    assert numbers(figures.drawn(name)) == pytest.approx(numbers(kept), rel=0.05), "run python tools/lecture_figures.py"


def test_links_lead_to_pages_and_headings():
    for page, heading in re.findall(r"\]\(([\w/]*\.md)?(?:#([\w-]+))?\)", PAGE):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8") if page else PAGE
        titles = [
            re.sub(r"[^\w\- ]", "", t.lower()).strip().replace(" ", "-")
            for t in re.findall(r"^#+ (.*)", text, re.MULTILINE)
        ]
        assert not heading or heading in titles, (page, heading)
