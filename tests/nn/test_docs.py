"""docs/nn.md: its code runs, and what its comments say comes out."""

import contextlib
import doctest
import importlib
import io
import re
from pathlib import Path

import pytest

import fallline.nn
from pages import python_blocks, run_blocks

PAGE = (Path(__file__).parents[2] / "docs" / "nn.md").read_text()


def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks, out = python_blocks(PAGE), io.StringIO()
    assert len(blocks) >= 7
    with contextlib.redirect_stdout(out):
        run_blocks(blocks)
    text = out.getvalue()
    assert (tmp_path / "signal.svg").exists()
    assert text.startswith("the gradient dies at 175, seen from the output (norm 0.00093)\n")
    assert "Critical(weight_variance=2.0, bias_variance=0.0, q=1.0)" in text
    assert "signal and gradient pass through 201 layers" in text
    assert text.endswith("59392\n")


def test_the_page_names_everything_public():
    named = set(re.findall(r"\w+", PAGE))
    assert sorted(set(fallline.nn.__all__) - named - {"Codebook", "Critical", "Row", "Signal", "Smoothness", "ScaledStandardised", "Standardised", "RowEquilibrated"}) == []  # fmt: skip


@pytest.mark.parametrize("name", ["quadrature", "mean_field", "normalizer_free", "residual"])
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(f"fallline.nn.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
