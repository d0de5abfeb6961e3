"""docs/tasks.md: it names every task with the size, budget and target that the task has, and its example runs."""

import re
from pathlib import Path

import pytest

from fallline.tasks import TASKS

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()


@pytest.mark.parametrize("name", TASKS)
def test_the_table_has_the_numbers_of_the_task(name):
    entry = TASKS[name]
    row = re.search(rf"^\| `{name}` \|(.*)\|$", PAGE, re.M)
    assert row
    _, batch_and_steps, metric, _ = [cell.strip() for cell in row[1].split(" | ")]
    assert batch_and_steps == f"{entry.batch_size}, {entry.steps}"
    assert float(re.search(r", (-?[\d.]+)", metric)[1]) == entry.target
    shown = re.search(r"\(([\d.]+)( k)?\)", row[1])
    assert float(shown[1]) * (1000 if shown[2] else 1) == pytest.approx(entry.num_parameters, rel=0.03)


def test_the_example_runs():
    scope = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, scope)
    assert scope["make_task"]().name == "sine"
