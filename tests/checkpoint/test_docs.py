"""docs/checkpoints.md: its code runs, and every test that it names exists."""

import doctest
import re
from pathlib import Path

import torch

import fallline
import fallline.checkpoint.whole
from pages import python_blocks, run_blocks

PAGE = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()


def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = torch.nn.Linear(3, 1)
    optimizer = fallline.Optimizer(model, fallline.methods.adamw(lr=0.1))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    scope = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "torch": torch, "fallline": fallline}
    torch.save(torch.optim.AdamW(model.parameters(), lr=3e-4).state_dict(), "theirs.pt")
    blocks = python_blocks(PAGE)
    assert len(blocks) == 3
    run_blocks(blocks, scope)
    assert scope["first_epoch"] == 4


def test_every_test_that_the_page_names_exists():
    source = "".join(p.read_text() for p in Path(__file__).parent.glob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", PAGE)
    assert len(named) > 15
    assert [name for name in named if f"def {name}" not in source] == []


def test_docstring_example():
    result = doctest.testmod(fallline.checkpoint.whole)
    assert result.attempted > 0
    assert result.failed == 0
