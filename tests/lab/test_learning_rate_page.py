"""docs/learning_rate.md: its examples run, its words are the code's, and its table has the reference of the studies."""

import re
from pathlib import Path

import pytest
from test_rate_studies import REFERENCE

from fallline.lab import bracket, rate
from pages import python_blocks, run_blocks

PAGE = (Path(__file__).parents[2] / "docs" / "learning_rate.md").read_text()


def test_the_examples_run():
    space = run_blocks(python_blocks(PAGE))
    assert 1e-3 < space["bracket"].edge < 10
    assert space["found"].rate is not None
    assert space["found"].rate <= 10 * space["bracket"].edge


def test_the_messages_that_are_explained_exist():
    source = "".join(Path(module.__file__).read_text() for module in (bracket, rate))
    explained = re.findall(r'^- "(.+?)":', PAGE, re.M)
    assert len(explained) == 7
    for message in explained:
        assert message.split(" ... ")[0] in source


@pytest.mark.parametrize("case", REFERENCE, ids="-".join)
def test_the_table_has_the_reference_and_a_rate_within_a_factor_3(case):
    best, _ = REFERENCE[case]
    row = re.search(rf"^\| `{case[0]}` \| {case[1]} \|(.*)\|$", PAGE, re.M)
    swept, found, *_ = (cell.split()[0] for cell in row[1].split("|"))
    assert float(swept) == best
    assert found == "-" or max(float(found) / best, best / float(found)) < 3.01
