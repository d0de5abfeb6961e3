"""Tasks from the user's own code, and every way in which that can go wrong."""

import sys

import pytest

from fallline.core.errors import FalllineError, UnknownNameError
from fallline.tasks import TASKS, load

GOOD = """
import torch
from torch import nn
from fallline.tasks import Metric, Task, Tensors

def loss(model, batch):
    return model(batch[0]).square().mean()

def make_task(name="mine"):
    data = Tensors(torch.ones(8, 2))
    return Task(name, "", lambda: nn.Linear(2, 1), loss, data, data, Metric("m", loss), 0.1, 4, 40)

TASK = make_task("ready")
NUMBER = 3
def returns_none(): pass
def raises(): raise OSError("no such disk")
def needs_argument(path): return make_task()
def wrong_field(): return Task("mine", "", 3, loss, [1], [1], Metric("m", loss), 0.1, 1, 40)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_tasks_of_mine.py").write_text(GOOD)
    (tmp_path / "broken_of_mine.py").write_text("import no_such_module_at_all\n")
    (tmp_path / "raising_of_mine.py").write_text("x = 1\nraise ValueError('bad data')\n")
    (tmp_path / "syntax_of_mine.py").write_text("x = 1\ndef (:\n")
    (tmp_path / "empty_of_mine.py").write_text("")
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    assert sys.path == path  # the working directory is on the path only while importing
    for name in set(sys.modules) - before:
        if name.endswith("_of_mine"):
            del sys.modules[name]


def test_a_module_in_the_working_directory(here):
    assert load("own_tasks_of_mine:make_task").name == "mine"
    load("own_tasks_of_mine:make_task").check()


def test_a_file_anywhere_that_imports_its_neighbour(here):
    folder = here / "deep"
    folder.mkdir()
    (folder / "neighbour_of_mine.py").write_text(GOOD)
    (folder / "entry_of_mine.py").write_text("from neighbour_of_mine import make_task\n")
    assert load("deep/entry_of_mine.py:make_task").name == "mine"
    assert load(f"{folder}/entry_of_mine.py:make_task").name == "mine"


def test_a_task_that_is_made_already(here):
    assert load("own_tasks_of_mine.py:TASK").name == "ready"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nowhere_of_mine:make_task", r"There is no module 'nowhere_of_mine'\. Expected one that Python can import"),
        ("no_package.of_mine:make_task", r"There is no module 'no_package\.of_mine'"),
        ("nowhere.py:make_task", r"There is no file nowhere\.py\. Expected a Python file\. It was looked for in"),
        (
            "broken_of_mine:make_task",
            r"could not be imported: it needs the module 'no_such_module_at_all' \(broken_of_mine\.py:1",
        ),
        (
            "raising_of_mine.py:make_task",
            r"could not be imported: ValueError: bad data \(raising_of_mine\.py:2\).*Run python",
        ),
        (
            "syntax_of_mine:make_task",
            r"could not be imported: SyntaxError: .* \(syntax_of_mine\.py:2\).*python -m syntax",
        ),
        ("own_tasks_of_mine:mak_task", r"has no 'mak_task'\. It has make_task.*\. Write own_tasks_of_mine:make_task"),
        ("empty_of_mine:make_task", r"has no 'make_task'\. It defines no function\. Write empty_of_mine:make_task"),
        (
            "own_tasks_of_mine:NUMBER",
            r"is a int\. Expected a function that returns a fallline\.tasks\.Task.*def NUMBER\(\)",
        ),
        ("own_tasks_of_mine:returns_none", r"returned a NoneType\. Expected a fallline\.tasks\.Task.*return Task\("),
        (
            "own_tasks_of_mine:raises",
            r"raises\(\) raised OSError: no such disk \(own_tasks_of_mine\.py:\d+\)\. It must return",
        ),
        ("own_tasks_of_mine:needs_argument", r"needs_argument\(\) raised TypeError.*without arguments"),
        ("own_tasks_of_mine:wrong_field", r"Task 'mine': model is 3\. Expected a function"),
        ("own_tasks_of_mine.py", r"names no function\. Expected MODULE:FUNCTION.*own_tasks_of_mine\.py:make_task"),
        ("own_tasks_of_mine:", r"names no function.*own_tasks_of_mine:make_task"),
        (":make_task", r"names no function"),
    ],
)
def test_what_goes_wrong_is_said(here, name, text):
    with pytest.raises(FalllineError, match=text):
        load(name)


def test_a_data_folder_is_for_the_tasks_that_come_along(here):
    with pytest.raises(FalllineError, match=r"data folder \(data\) was given for .*Read your data in make_task\(\)"):
        load("own_tasks_of_mine:make_task", "data")


def test_unknown_tasks_list_the_nearest():
    for look_up in (load, TASKS.__getitem__):
        with pytest.raises(
            UnknownNameError, match=r"Unknown task 'digit-mlp'\. Did you mean digits-mlp.*my_module:make_task"
        ):
            look_up("digit-mlp")
