"""Smaller pages that draw the same: shared styles, and no groups or paths that draw nothing."""

import re
import xml.etree.ElementTree as ET

from fallline.report.styles import share_styles
from fallline.report.svg import drawing, figure, inline


def test_a_style_that_stands_there_often_becomes_a_class_and_a_rare_one_stays():
    often, rare = '<path d="M 0 0" style="fill: red"/>' * 20, '<text x="1" style="fill: blue">a</text>'
    page = share_styles(f"<style>p {{}}</style><svg>{often}{rare}</svg>")
    assert page.count('<path d="M 0 0" class="y0"/>') == 20
    assert rare in page
    assert "svg .y0 { fill: red }\n</style>" in page


def test_elements_with_a_class_and_those_outside_figures_keep_their_style():
    rows = '<span class="swatch" style="background: red"></span><path class="a" style="fill: red"/>' * 30
    assert rows in share_styles(f"<style></style>{rows}")


def test_what_draws_nothing_is_left_out_and_every_visible_thing_stays():
    with drawing():
        fig, axes = figure(200, 100, left=20, right=10, top=10, bottom=20)
        axes.plot([0, 1, 2], [0, 1, 4], marker="o")
        axes.set_title("a title")
        text = inline(fig, "x", "A figure.")
    root = ET.fromstring(text.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1))
    names = [e.tag.rpartition("}")[2] for e in root.iter()]
    assert all(e.attrib for e in root.iter() if e.tag.endswith("}g"))
    assert 'style="fill: none"/>' not in text
    assert "a title" in text
    markers = [e for e in root.iter() if e.tag.endswith("}use") and "fill" in e.attrib.get("style", "")]
    assert len(markers) == 3  # one for each point; ticks take the style of their shape
    assert names.count("use") > 3
    assert set(re.findall(r'href="#([^"]+)"', text)) <= {e.attrib["id"] for e in root.iter() if "id" in e.attrib}
