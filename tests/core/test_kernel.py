"""Kernels: what is equal when a step is traced, numbers or shapes, is not one thing for good."""

import pytest
import torch

from fallline import Optimizer
from fallline.core.execute import compiler_available
from fallline.methods import adam, adamp
from fallline.testing.harness import drive, parameters, same


@pytest.mark.skipif(not compiler_available(), reason="no C++ compiler on this machine")
@pytest.mark.parametrize(
    ("values", "edit"),
    [({"lr": 1.0}, {}), ({"b1": 0.9, "b2": 0.9}, {"b1": 0.5}), ({"eps": 1e-3, "weight_decay": 1e-3}, {"eps": 1.0})],
    ids=["lr equals the first step's number", "b1 equals b2", "eps equals weight_decay"],
)
def test_numbers_that_are_equal_at_first_are_told_apart(values, edit):
    ends = []
    for fuse in ("leaf", "eager"):
        params = parameters(((9, 5),), torch.float64)
        optimizer = Optimizer(params, adam(**values), fuse=fuse)
        drive(optimizer, (1, 2))
        optimizer.param_groups[0].update(edit)
        drive(optimizer, (3, 4))
        ends.append([p.detach() for p in params])
    assert same(*ends, 1e-12)


@pytest.mark.skipif(not compiler_available(), reason="no C++ compiler on this machine")
def test_a_matrix_step_is_traced_anew_for_another_memory_format():
    ends = []
    for fuse in ("leaf", "eager"):
        plain, last = parameters(((2, 3, 4, 4), (2, 3, 4, 4)))
        last = torch.nn.Parameter(last.detach().contiguous(memory_format=torch.channels_last))
        optimizer = Optimizer([plain, last], adamp(0.1), fuse=fuse)
        drive(optimizer, (1, 2))
        ends.append([plain.detach(), last.detach()])
    assert same(*ends, 1e-5)
