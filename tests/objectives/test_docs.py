"""docs/objectives.md: its code runs, its names and tests exist."""

import re
from pathlib import Path

import torch
import torch.nn.functional as F
from nets import data, net

import fallline
from fallline import objectives
from pages import python_blocks, run_blocks

PAGE = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text()


def test_the_code_of_the_page_runs():
    model = net(torch.float32)
    batch = data(12, dtype=torch.float32)
    scope = {
        "fallline": fallline,
        "F": F,
        "torch": torch,
        "model": model,
        "batch": batch,
        "batches": [batch, data(6, 2, torch.float32)],
        "optimizer": torch.optim.SGD(model.parameters(), 0.1),
        "domains": torch.tensor([0] * 9 + [1] * 3),
        "dataset": torch.utils.data.TensorDataset(*batch),
    }
    blocks = python_blocks(PAGE)
    assert len(blocks) == 5
    run_blocks(blocks, scope)
    assert next(iter(scope["loader"]))[0].shape == (8, 5)
    assert all(p.grad is not None for p in model.parameters())


def test_every_name_of_the_package_is_on_the_page():
    named = set(re.findall(r"`(\w+)", PAGE))
    assert set(objectives.__all__) - {"Objective", "Reduction", "Several", "Ascent", "temperature"} - named == set()


def test_every_test_that_the_page_names_exists():
    source = "".join(p.read_text() for p in Path(__file__).parent.glob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", PAGE)
    assert len(named) >= 3
    assert [name for name in named if f"def {name}" not in source] == []
