"""The page of a large study, and the colours of every page."""

import re
from importlib.resources import files

import pytest

from fallline.report import render
from fallline.report.svg import light_and_dark
from report.samples import suite


@pytest.mark.slow
def test_twelve_tasks_and_six_methods_fit_into_two_megabytes():
    assert len(render(suite(12)).encode()) < 2_000_000


def contrast(a: str, b: str) -> float:
    """Of two colours as #rrggbb (WCAG 2.2)."""
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_of_the_examples_in_the_standard():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_on_the_page(scheme):
    css = (files("fallline.report") / "templates" / "style.css").read_text()
    part = css.partition("prefers-color-scheme: dark")[0 if scheme == "light" else 2]
    colours = dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", part.partition("* {")[0]))
    for name in ("ink", "soft", "bad", "good", "note", "accent"):
        assert contrast(colours[name], colours["paper"]) >= 4.5, name
    for i in range(8):  # lines and markers
        assert contrast(colours[f"c{i}"], colours["paper"]) >= 3, i


def test_figures_know_every_colour_in_both_schemes():
    light, dark = light_and_dark()
    assert set(light) == set(dark)
