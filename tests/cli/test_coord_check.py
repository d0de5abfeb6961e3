"""``fallline coord-check``: flat under muP, not without, on a task of one's own too."""

import xml.etree.ElementTree as ET

import pytest

from fallline.cli import main

QUICK = ["coord-check", "--widths", "16,64,256", "--steps", "1"]

OWN = """
import torch
from torch import nn
from fallline.tasks import Metric, Task, Tensors

def make(width):
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    loss = lambda model, batch: (model(batch[0]) - batch[0].sum(1, keepdim=True)).square().mean()
    return Task(
        name="own", summary="a line", model=lambda: nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 1)), loss=loss,
        train=Tensors(x), valid=Tensors(x), metric=Metric("loss", loss), target=0.1, batch_size=20, steps=20,
    )

def wrong(width):
    return None

number = 3
"""


def test_mup_is_flat(capsys, tmp_path):
    assert main([*QUICK, "--svg", str(tmp_path / "c.svg")]) == 0
    out = capsys.readouterr().out
    assert "keeps its size" in out
    assert "muP, base width 16" in out
    assert ET.parse(tmp_path / "c.svg").getroot().tag.endswith("svg")


def test_the_standard_parametrisation_is_not(capsys):
    assert main([*QUICK, "--standard"]) == 1
    assert "blow up with the width" in capsys.readouterr().out


def test_a_task_of_ones_own(capsys, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    assert main([*QUICK[:1], f"{tmp_path}/own.py:make", *QUICK[1:]]) == 0
    for name, text in (("wrong", "returned a NoneType for width 16"), ("number", "is a int"), ("mak", "has no 'mak'")):
        assert main([*QUICK[:1], f"{tmp_path}/own.py:{name}", *QUICK[1:]]) == 2
        assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--widths", "16,x"], "--widths got '16,x'"),
        (["--widths", "16"], "at least two widths"),
        (["--method", "lamb"], "does not cover lamb"),
        (["--method", "adma"], "Unknown method 'adma'"),
        (["--lr", "0"], "Nothing changed"),
        (["--standard", "--base", "4"], "Drop one of them"),
        (["--base", "0"], "--base got 0"),
        (["--svg", "c.png"], "ends in .svg"),
    ],
)
def test_mistakes(argv, text, capsys):
    widths = [] if "--widths" in argv else ["--widths", "4,8"]
    assert main(["coord-check", "--steps", "1", *widths, *argv]) == 2
    assert text in capsys.readouterr().err
