"""The examples of docs/scaling.md run, and its numbers are those of the code."""

import re
from pathlib import Path

import pytest

from fallline.methods import adamw, lion, sgd
from fallline.scaling import RULES, grow_batch, rescale
from fallline.schedules import cosine, step_decay
from pages import python_blocks, run_blocks

PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()


def test_the_examples_run(capsys):
    blocks = python_blocks(PAGE)
    assert len(blocks) == 5
    space = run_blocks(blocks)
    assert capsys.readouterr().out.startswith("parameter")
    assert space["batches"].batch_size > 64


def test_every_rule_and_method_is_in_the_table():
    for rule, entries in RULES.items():
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{rule}`"))
        methods = {name for entry in entries for name in entry.methods}
        named = set(re.findall(r"`(\w+)`", row.split("|")[2]))
        above = {"sgd", "nesterov", "heavy_ball", "sgdw", "adam", "adamw", "rmsprop"} if "the above" in row else set()
        assert named | above == methods, rule


def test_the_numbers():
    assert rescale(sgd(lr=0.1, momentum=0.9), 256, 4096, "linear").values["lr"] == pytest.approx(1.6)
    moved = rescale(adamw(lr=1e-3), 256, 1024, "sqrt").values
    assert [moved[n] for n in ("lr", "b1", "b2", "eps", "weight_decay")] == pytest.approx(
        [2e-3, 0.6, 0.996, 5e-9, 0.02]
    )
    assert rescale(adamw(lr=1e-3), 256, 4096, "rmt").values["lr"] == pytest.approx(4e-3)
    assert f"{rescale(lion(lr=1e-4), 256, 4096, 'surge', 1000).values['lr']:.2g}" == "9.9e-05"
    assert grow_batch(cosine(1000), 1000, 64, 4096).num_steps == 504
    assert grow_batch(step_decay(300, 0.2), 900, 64, 1600).num_steps == 372
