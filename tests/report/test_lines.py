"""Plain figures: what the text shows, and that the SVG stands alone."""

import re
import xml.etree.ElementTree as ET

from fallline.report.lines import Lines

RISE = Lines("rise", "x", "y", {"line": [(0, 0.0), (10, 5.0)]})


def rows(figure, **options):
    return [line.partition("│")[2] for line in figure.text(**options).splitlines() if "│" in line]


def test_a_line_runs_from_corner_to_corner():
    found = rows(RISE, width=21, height=21)
    assert found == [" " * (20 - i) + ("•" if i in (0, 20) else "·") for i in range(21)]


def test_the_ends_are_written():
    text = RISE.text(width=20)
    assert re.search(r"^5 │", text, re.MULTILINE)
    assert re.search(r"^0 │", text, re.MULTILINE)
    assert text.splitlines()[-1].split() == ["0", "x", "10"]


def test_plain_text_is_ascii_and_several_lines_are_told_apart():
    figure = Lines("two", "x", "y", {"a": [(1, 1.0), (2, 2.0)], "b": [(1, 2.0), (2, 1.0)]})
    text = figure.text(plain=True)
    assert text.isascii()
    assert "* a  o b" in text


def test_a_level_line_stays_level_on_a_logarithmic_axis():
    figure = Lines("level", "x", "y", {"a": [(1, 1.00), (100, 1.02)]}, log_x=True, log_y=True)
    marked = [row for row in rows(figure) if row.strip()]
    assert len(marked) <= 2  # it lies on the border of two rows


def test_a_constant_is_drawn():
    for value in (1.0, 0.0, -2.0):
        assert sum("•" in row for row in rows(Lines("level", "x", "y", {"a": [(1, value), (3, value)]}))) == 1


def test_the_file_has_its_colours_and_its_words():
    svg = Lines("a < b & c", "x", "y", {"a": [(1, 1.0), (2, 2.0)], "b": [(1, 2.0), (2, 1.0)]}).svg()
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.attrib["aria-label"].startswith("a < b & c: y against x. a ends at 2")
    for variable in set(re.findall(r"var\((--\w+)\)", svg)):
        assert svg.count(f"{variable}: #") == 2, variable  # light and dark


def test_logarithmic_axes_have_plain_numbers():
    svg = Lines("rise", "x", "y", {"a": [(0.02, 1e-5), (0.2, 1.0)]}, log_x=True, log_y=True).svg()
    assert "mathdefault" not in svg
    assert {"1e-5", "0.01", "0.02", "0.1", "0.2", "1"} <= set(re.findall(r">([^<>]+)</text>", svg))
