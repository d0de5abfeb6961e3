"""Every result draws itself, on given axes or on new ones, and leaves pyplot alone."""

import sys

import pytest
import torch
from matplotlib.figure import Figure

from fallline.landscape import (
    Path,
    activation_matching,
    connect,
    flatness,
    interpolate,
    repair,
    slice_1d,
    slice_2d,
    snapshot,
    symmetry_of,
    trajectory_pca,
    trajectory_slice,
    worst_case,
)

DRAWN = {
    "slice": (lambda o, d, a, b, s: slice_1d(o, d, num=5), "position along the direction", 2),
    "plane": (lambda o, d, a, b, s: slice_2d(o, d, num=5), "along the first direction", 1),
    "path": (lambda o, d, a, b, s: interpolate(o, d, a, b), "place between the solutions", 1),
    "curve": (lambda o, d, a, b, s: connect(o, d, a, b, steps=2), "place between the solutions", 2),
    "trajectory": (lambda o, d, a, b, s: trajectory_pca(walk(a)), "random walk", 2),
    "plane of it": (lambda o, d, a, b, s: trajectory_slice(o, d, trajectory_pca(walk(a)), num=5), "along the first", 2),
    "matching": (lambda o, d, a, b, s: activation_matching(o, d, s, a, b), "share of units", 2),
    "repair": (lambda o, d, a, b, s: repair(o, d, s, a, b), "layer", 3),
    "worst case": (lambda o, d, a, b, s: worst_case(o, d), "step of the search", 2),
}


def walk(a):
    made = torch.Generator().manual_seed(0)
    return [{n: p + t * 0.01 * torch.randn(p.shape, generator=made) for n, p in a.items()} for t in range(6)]


@pytest.mark.parametrize("name", DRAWN)
def test_results_draw_themselves(name, model, oracle, batch):
    make, label, num_lines = DRAWN[name]
    a = snapshot(oracle)
    found = make(oracle, batch, a, {n: p.flip(0) for n, p in a.items()}, symmetry_of(model))
    ax = found.plot()
    assert label in ax.get_xlabel()
    assert len(ax.lines) == num_lines
    ax.figure.canvas.draw()  # all that is drawn can be
    mine = Figure().add_subplot()
    assert found.plot(mine) is mine
    assert len(mine.lines) == num_lines


def test_measures_are_bars(oracle, batch):
    ax = flatness(oracle, batch).plot()
    assert next(label.get_text() for label in ax.get_yticklabels()) == "top eigenvalue"
    assert len(ax.patches) == 6


def test_drawing_needs_no_pyplot(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it raises
    t = torch.linspace(0, 1, 3)
    assert Path(t, t).plot().get_ylabel() == "loss"
