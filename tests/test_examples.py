"""The examples and the README's lines run."""

import doctest
import importlib.util
import sys
from pathlib import Path

import fallline.core.optimizer

EXAMPLES = Path(__file__).parents[1] / "examples"


def load_example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_own_model_is_a_sound_task():
    task = load_example("own_model").make_task()
    task.check()
    assert task.name == "my-regression"


def test_nanogpt_learns(capsys):
    quality = load_example("nanogpt").main(steps=12)
    assert quality < 4.0  # ln 96 = 4.56 nats before training
    assert "validation" in capsys.readouterr().out


def test_docstring_examples():
    result = doctest.testmod(fallline.core.optimizer)
    assert result.attempted > 0
    assert result.failed == 0
