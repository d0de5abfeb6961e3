"""docs/flows.md: its code runs, in order, and names what exists."""

import re
from pathlib import Path

import fallline.flows
from pages import python_blocks, run_blocks

PAGE = (Path(__file__).parents[2] / "docs" / "flows.md").read_text()


def test_the_code_of_the_page_runs():
    blocks = python_blocks(PAGE)
    assert len(blocks) == 6
    run_blocks(blocks)


def test_the_table_names_what_there_is():
    table = PAGE.split("## Stability of any chain")[0]
    named = {word for cell in re.findall(r"`([^`]*)`", table) for word in re.findall(r"[A-Za-z_]{4,}", cell)}
    named -= {
        "chain",
        "optimizer",
        "current_chain",
        "flow",
        "loss",
        "start",
        "until",
        "hessians",
        "batch_size",
        "scaled",
        "fallline",
        "flows",
        "claims",
        "family",
    }
    assert sorted(named - set(fallline.flows.__all__)) == []
