"""Every drop-in class takes torch's arguments and takes torch's steps, in float64, over 50 random gradients."""

import inspect

import pytest
import torch
from torch import nn

import fallline
from fallline.testing.harness import drive, parameters

CASES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    ("Adagrad", {}),
    ("Adagrad", {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3}),
    ("RMSprop", {}),
    ("RMSprop", {"alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1, "momentum": 0.8}),
    ("RMSprop", {"centered": True}),
    ("RMSprop", {"centered": True, "momentum": 0.8, "maximize": True}),
    ("Adadelta", {}),
    ("Adadelta", {"lr": 0.5, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1}),
    ("Rprop", {}),
    ("Rprop", {"lr": 0.1, "etas": (0.4, 1.5), "step_sizes": (1e-2, 0.3), "maximize": True}),
    ("Adam", {}),
    ("Adam", {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    ("Adam", {"amsgrad": True, "weight_decay": 0.1, "betas": (0.8, 0.9)}),
    ("Adam", {"decoupled_weight_decay": True, "weight_decay": 0.1, "maximize": True}),
    ("AdamW", {}),
    ("AdamW", {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3, "maximize": True}),
    ("AdamW", {"amsgrad": True, "betas": (0.8, 0.9)}),
    ("Adamax", {}),
    ("Adamax", {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1, "maximize": True}),
    ("NAdam", {}),
    ("NAdam", {"betas": (0.8, 0.95), "momentum_decay": 0.1, "weight_decay": 0.1, "eps": 1e-3}),
    ("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
    ("RAdam", {}),
    ("RAdam", {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    ("RAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
]  # fmt: skip


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)  # torch keeps NAdam's momentum product in the default dtype
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("name", "options"), CASES, ids=lambda v: v if isinstance(v, str) else "-".join(v) or "default"
)
def test_equals_torch(name, options):
    ours = parameters(((7, 5), (6,), ()), torch.float64)
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    drive(getattr(fallline.optim, name)(ours, **options), range(1, 51))
    drive(getattr(torch.optim, name)(theirs, **options), range(1, 51))
    start = parameters(((7, 5), (6,), ()), torch.float64)
    for p, q, p0 in zip(ours, theirs, start, strict=True):
        assert float((p - q).norm()) <= 1e-10 * float((q - p0).norm())


@pytest.mark.parametrize("name", sorted({name for name, _ in CASES}))
def test_arguments_and_defaults_are_torchs(name):
    ours = inspect.signature(getattr(fallline.optim, name)).parameters
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    execution = {"foreach", "fused", "capturable", "differentiable"}
    shared = [n for n in theirs if n not in execution]
    assert set(shared) <= set(ours)
    for n in shared:
        assert ours[n].default == theirs[n].default, n
    positional = [
        n for n, p in theirs.items() if p.kind == p.POSITIONAL_OR_KEYWORD and n not in execution | {"maximize"}
    ]
    assert [n for n in ours if n in positional] == positional
