"""A task written by hand: every mistake is refused with what was seen, what was expected and what to do."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from fallline.core.errors import FalllineError
from fallline.core.space import Range
from fallline.tasks import Metric, Source, Task, Tensors

INPUTS, LABELS = torch.arange(16.0).view(8, 2) / 16, torch.arange(8) % 2
DATA = Tensors(INPUTS, LABELS)


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def make(**changes):
    fields = {
        "name": "tiny",
        "summary": "two classes",
        "model": lambda: nn.Linear(2, 2),
        "loss": loss,
        "train": DATA,
        "valid": DATA,
        "metric": Metric("loss", loss),
        "target": 0.5,
        "batch_size": 4,
        "steps": 40,
    }
    return Task(**{**fields, **changes})


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


REFUSED = [
    ({"name": "my task"}, r"name is 'my task'\. Expected a name of letters.*Write for example name=\"my-task\""),
    ({"name": ""}, r"name is ''"),
    ({"name": 3}, r"name is 3\. Expected a name"),
    ({"summary": None}, r"summary is None\. Expected a text"),
    (
        {"model": nn.Linear(2, 2)},
        r"model is .*Linear.*Expected a function that makes a new module for every run.*lambda",
    ),
    ({"model": 3}, r"model is 3\. Expected a function without arguments"),
    ({"loss": nn.CrossEntropyLoss()}, r"loss is CrossEntropyLoss\(\) .*function of \(model, batch\).*F\.cross_entropy"),
    ({"loss": None}, r"loss is None\. Expected a function of \(model, batch\)"),
    ({"metric": loss}, r"metric is .*Expected a Metric.*metric=Metric\("),
    ({"augment": True}, r"augment is True.*function of \(batch, generator\), or None"),
    ({"train": DataLoader(TensorDataset(INPUTS))}, r"train is .*DataLoader.*makes the batches itself.*loader\.dataset"),
    ({"valid": Stream()}, r"valid is .*Stream.*dataset with a length"),
    ({"train": 3}, r"train is 3\. Expected a dataset with __len__ and either batch"),
    ({"train": (INPUTS, LABELS)}, r"train is .*tuple.*not a collection of tensors.*Tensors\(inputs, labels\)"),
    ({"train": {"x": INPUTS}}, r"train is .*dict.*not a collection of tensors"),
    ({"valid": []}, r"valid is \[\] .*at least one example"),
    ({"target": float("nan")}, r"target is nan\. Expected a finite value of the metric"),
    ({"target": "0.5"}, r"target is '0\.5'\. Expected a finite value"),
    ({"target": True}, r"target is True\."),
    ({"batch_size": 0}, r"batch_size is 0\. Expected a whole number, at least 1"),
    ({"batch_size": 2.5}, r"batch_size is 2\.5\. Expected a whole number"),
    ({"batch_size": 9}, r"batch_size is 9\. Expected at most 8, the training examples"),
    ({"steps": -1}, r"steps is -1\. Expected a whole number"),
    ({"steps": True}, r"steps is True\."),
    ({"num_evals": 0}, r"num_evals is 0\. Expected a whole number"),
    ({"num_evals": 41}, r"num_evals is 41\. Expected at most steps=40.*more steps"),
    ({"sources": ("MIT",)}, r"sources is 'MIT'\. Expected a tuple of Source"),
    ({"spaces": 3}, r"spaces is 3\. Expected method -> hyperparameter -> Range"),
    ({"spaces": {"sgd": 3}}, r"spaces\['sgd'\] is 3\. Expected hyperparameter -> Range"),
    (
        {"spaces": {"sgd": {"lr": (1e-4, 1.0)}}},
        r"spaces\['sgd'\]\['lr'\] is \(0\.0001, 1\.0\).*Expected a Range.*parse",
    ),
    ({"target_note": 3}, r"target_note is 3\. Expected a text"),
]


@pytest.mark.parametrize(("change", "text"), REFUSED, ids=[f"{next(iter(c))}-{i}" for i, (c, _) in enumerate(REFUSED)])
def test_wrong_fields_are_refused(change, text):
    with pytest.raises(FalllineError, match=r"(?s)Task .*: " + text):
        make(**change)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"name": "", "fn": loss}, r"Metric: name is ''\. Expected a short text"),
        ({"name": "m", "fn": 3}, r"Metric: fn is 3\. Expected a function of \(model, batch\)"),
        ({"name": "m", "fn": loss, "minimize": "min"}, r"Metric: minimize is 'min'\. Expected True"),
    ],
)
def test_wrong_metrics_are_refused(fields, text):
    with pytest.raises(FalllineError, match=text):
        Metric(**fields)


def test_a_good_task_is_accepted_frozen_and_its_sources_become_a_tuple():
    task = make(sources=[Source("n", "MIT", "here", "0" * 64)], spaces={"sgd": {"lr": Range(1e-4, 1.0)}})
    task.check()
    assert isinstance(task.sources, tuple)
    assert dataclasses.replace(task, steps=50).steps == 50
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.steps = 3


def test_check_leaves_the_global_random_state_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    make(model=lambda: nn.Sequential(nn.Linear(2, 2), nn.Dropout())).check()
    assert torch.equal(torch.rand(3), expected)


class Frozen(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
        self.requires_grad_(False)


def fail(*_):
    raise KeyError("label")


def explode(model, batch):
    return loss(model, batch) * 0 + (model.weight * 0).sum().sqrt() + model.weight.sum()


SHARED = nn.Linear(2, 2)
SPOILED = [
    (
        {"model": fail},
        r"model\(\) raised KeyError: 'label' \(test_task\.py:\d+\)\. It must return a new torch.nn.Module",
    ),
    ({"model": lambda: 3}, r"model\(\) returned a int\. It must return a torch\.nn\.Module"),
    ({"model": lambda: SHARED}, r"returned the same module twice.*lambda: MyNet\(\)"),
    ({"model": Frozen}, r"no parameter with requires_grad.*something to train"),
    ({"loss": fail}, r"loss\(model, batch\) raised KeyError: 'label'.*the mean loss, a scalar tensor.*by hand"),
    ({"loss": F.cross_entropy}, r"loss\(model, batch\) raised \w+"),  # takes (output, target), not (model, batch)
    ({"loss": lambda m, b: loss(m, b).item()}, r"loss\(model, batch\) returned a float.*scalar tensor.*\.item\(\)"),
    ({"loss": lambda m, b: m(b[0])}, r"returned a tensor of shape \(4, 2\).*mean over the batch.*Add \.mean\(\)"),
    ({"loss": lambda m, b: loss(m, b) * float("nan")}, r"is nan on the first batch.*must be finite.*NaN in the data"),
    ({"loss": lambda m, b: loss(m, b).detach()}, r"has no gradient.*depend on the model's parameters.*detach"),
    ({"loss": lambda m, b: m.weight.sum() * 0}, r"no gradient of the loss reaches a parameter.*non-zero"),
    ({"loss": explode}, r"gradient of the loss is not finite.*sqrt\(0\)"),
    ({"train": [3] * 8, "loss": lambda m, b: m(b).sum()}, r"loss\(model, batch\) raised"),
    (
        {"train": [INPUTS[0], INPUTS[0, :1]] * 4},
        r"a batch of train raised RuntimeError.*what loss and metric understand",
    ),
    ({"augment": fail}, r"augment\(batch, generator\) raised KeyError.*the changed batch"),
    ({"augment": lambda b, g: None}, r"augment\(batch, generator\) returned None.*return batch"),
    ({"metric": Metric("m", fail)}, r"metric\.fn\(model, batch\) raised KeyError: 'label'.*one number"),
    ({"metric": Metric("m", lambda m, b: m(b[0]))}, r"metric\.fn\(model, batch\) returned a tensor of shape \(4, 2\)"),
    ({"metric": Metric("m", lambda m, b: float("inf"))}, r"metric\.fn\(model, batch\) is inf on the first batch"),
    (
        {"metric": Metric("m", lambda m, b: "good")},
        r"metric\.fn\(model, batch\) returned a str\. It must return one number",
    ),
]


@pytest.mark.parametrize(("change", "text"), SPOILED, ids=[f"{next(iter(c))}-{i}" for i, (c, _) in enumerate(SPOILED)])
def test_check_says_what_spoils_a_study(change, text):
    with pytest.raises(FalllineError, match=r"(?s)Task 'tiny': .*" + text):
        make(**change).check()
