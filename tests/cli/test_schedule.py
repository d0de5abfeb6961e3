"""``fallline schedule``: a curve as text on any terminal, an SVG file, errors in one line."""

import xml.etree.ElementTree as ET

import pytest

from fallline.cli import main


def test_the_curve_and_its_numbers(capsys):
    assert main(["schedule", "3e-4 * (warmup(200) >> cosine(5000))"]) == 0
    out = capsys.readouterr().out
    assert "peak at step 200: 0.0003" in out
    assert "ends after step 5200" in out
    rows = [line for line in out.splitlines() if "│" in line]
    assert len(rows) == 16
    assert all("•" in row for row in rows)
    assert max(map(len, out.splitlines())) < 90


def test_the_figure_as_a_file(tmp_path, capsys):
    path = tmp_path / "s.svg"
    assert main(["schedule", "triangular(50)", "--steps", "300", "--svg", str(path)]) == 0
    assert str(path) in capsys.readouterr().out
    root = ET.parse(path).getroot()
    assert root.tag.endswith("svg")
    assert "--c0: #" in path.read_text()
    assert "triangular(50)" in root.attrib["aria-label"]


def test_a_terminal_without_unicode(monkeypatch, capsys):
    import fallline.cli.figures as figures

    class Ascii:
        encoding = "ascii"

        def __getattr__(self, name):
            return getattr(real, name)

    real = figures.sys.stdout
    monkeypatch.setattr(figures.sys, "stdout", Ascii())
    assert main(["schedule", "-1 * cosine(100)"]) == 0
    assert capsys.readouterr().out.isascii()


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["cosin(3)"], "Unknown schedule 'cosin'. Did you mean cosine"),
        (["cosine(3)", "--steps", "1"], "--steps got 1 steps"),
        (["cosine(3)", "--steps", "0"], "--steps got 0 steps"),
        (["cosine(100000000)"], "The schedule has 100000000 steps"),
        (["cosine(3)", "--svg", "figure.png"], "ends in .svg"),
        (["cosine(3)", "--svg", "no/such/folder/f.svg"], "could not write"),
    ],
)
def test_mistakes_are_one_line(argv, text, capsys):
    assert main(["schedule", *argv]) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert len(captured.err.strip().splitlines()) == 1
