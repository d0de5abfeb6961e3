"""The benchmark of curvature: what it measures and prints. No test looks at a clock."""

import json

import pytest
import torch

from fallline.bench import curvature
from fallline.bench.curvature import CurvatureRow, measure_curvature, missing_peers, problem
from fallline.cli.main import main
from fallline.core.errors import FalllineError


@pytest.fixture
def small(monkeypatch):
    """A narrow network on few images, and no other library."""
    monkeypatch.setattr(curvature, "PEERS", {})
    monkeypatch.setattr(curvature, "_module", lambda name: None)
    make = problem
    monkeypatch.setattr("fallline.cli.curvature.problem", lambda examples, trained: make(examples, trained, width=4))


def test_every_row_says_what_it_took_and_how_far_off_it_is(small):
    rows = list(measure_curvature(problem(128, width=4), rounds=1))
    names = {(row.what, row.by) for row in rows}
    assert {("one product", "fallline, graph kept"), ("top 10 eigenvalues", "scipy eigsh on fallline")} <= names
    assert not any(row.failed for row in rows)
    solved = [row for row in rows if row.error is not None]
    assert len(solved) == 5
    assert all(row.error < 1e-3 for row in solved)
    assert all(row.products >= 3 for row in solved)
    assert rows[0].per_product == rows[0].gradients


def test_what_another_library_raises_is_its_row(small):
    def broken():
        raise AttributeError("torch.eig")

    clock = curvature._Clock("s", lambda: torch.ones(1))
    assert clock.row("density", "other", lambda: broken(), None).failed == "AttributeError: torch.eig"


def test_libraries_that_are_not_there_are_named(monkeypatch):
    monkeypatch.setattr(curvature, "PEERS", {"nowhere_at_all": "nowhere-package"})
    assert missing_peers() == ["nowhere_at_all: pip install nowhere-package"]


def test_the_command_prints_and_writes_everything(small, tmp_path, capsys):
    file = tmp_path / "curvature.json"
    assert main(["bench", "curvature", "--examples", "128", "--quick", "--json", str(file)]) == 0
    text = capsys.readouterr().out
    for expected in ("initialisation, 128 examples", "trained, 128 examples", "top eigenvalue", "per product", "warm"):
        assert expected in text
    content = json.loads(file.read_text())
    assert content["about"]["command"] == "fallline bench curvature --examples 128 --threads 1 --quick"
    rows = [CurvatureRow(**row) for row in content["rows"]]
    assert {row.state for row in rows} == {"initialisation", "trained"}
    assert str(tmp_path) not in file.read_text()


def test_mistakes_have_answers(tmp_path, capsys):
    with pytest.raises(FalllineError, match="got 5 examples"):
        problem(5)
    assert main(["bench", "curvature", "--json", str(tmp_path / "no" / "file.json")]) == 2
    assert "is no folder" in capsys.readouterr().err


def test_others_estimate_with_as_many_products(monkeypatch):
    asked = {}
    monkeypatch.setattr(curvature, "_module", lambda name: object())
    monkeypatch.setattr(
        curvature, "_density", lambda at: asked.setdefault("density", curvature.PROBES * curvature.STEPS)
    )
    monkeypatch.setattr(curvature, "_hutchpp", lambda at, products: asked.setdefault("trace", products))
    monkeypatch.setattr(curvature, "_diagonal", lambda at: asked.setdefault("diagonal", curvature.DIAGONAL))
    at = problem(128, width=4)
    found = {
        (what, by): do() for what, by, do in curvature._estimates(at, curvature.hessian(at.oracle, at.batch), False)
    }
    by_what = {}
    for (what, _), products in found.items():
        by_what.setdefault(what.split(",")[0], set()).add(products)
    assert asked.keys() == {"density", "trace", "diagonal"}
    assert all(len(by_what[what]) == 1 for what in ("density", "trace of GGN", "diagonal"))
