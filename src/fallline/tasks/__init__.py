"""Tasks: a model, real data, a loss, a metric and a target. ``load("digits-mlp")``, or your own ``Task(...)``."""

from fallline.tasks.baselines import Baseline, baselines
from fallline.tasks.data import Corpus, DifferentDataWarning, SyntheticDataWarning
from fallline.tasks.datasets import Batch, Dataset, Tensors, Windows, fetch
from fallline.tasks.devices import on_device
from fallline.tasks.entry import Entry
from fallline.tasks.evaluate import evaluate
from fallline.tasks.registry import TASKS, load
from fallline.tasks.suites import SUITES, suite
from fallline.tasks.task import Metric, Source, Task

__all__ = [
    "SUITES",
    "TASKS",
    "Baseline",
    "Batch",
    "Corpus",
    "Dataset",
    "DifferentDataWarning",
    "Entry",
    "Metric",
    "Source",
    "SyntheticDataWarning",
    "Task",
    "Tensors",
    "Windows",
    "baselines",
    "evaluate",
    "fetch",
    "load",
    "on_device",
    "suite",
]
