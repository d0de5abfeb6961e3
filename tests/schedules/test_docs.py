"""The examples of docs/schedules.md run, and its numbers are those of the code."""

import re
from pathlib import Path

from fallline.schedules import best_cooldown, last_iterate_bound, tracking_rates, transfer_lr, wsd
from fallline.schedules.parse import KNOWN
from pages import python_blocks, run_blocks

PAGE = (Path(__file__).parents[2] / "docs" / "schedules.md").read_text()


def test_the_examples_run():
    blocks = python_blocks(PAGE)
    assert len(blocks) == 5
    space = run_blocks(blocks)
    assert space["optimizer"].chains[0].name == "sgd"


def test_every_shape_is_in_the_table():
    table = PAGE.partition("## Shapes")[2].partition("## With torch")[0]
    assert set(re.findall(r"^\| `(\w+)\(", table, re.MULTILINE)) == set(KNOWN)


def test_the_numbers():
    assert round(last_iterate_bound(wsd(4000), 4000).best * 4000**0.5, 2) == 2.16
    tuned = last_iterate_bound(wsd(400), 400).best_lr
    assert [best_cooldown(400, lr=k * tuned) for k in (0.5, 1, 2)] == [0.13, 0.42, 1.0]
    assert round(transfer_lr(3e-3, (wsd(4000), 4000), (wsd(8000), 8000)), 4) == 0.0021
    still, moving = (tracking_rates([d] * 3000, 10, 0.5, 4).rates[-1] for d in (0.0, 0.05))
    assert (round(still, 4), round(moving, 3)) == (0.0003, 0.041)
