"""Methods against other libraries, where their formulae were found to be the papers'; skipped where they are not installed."""

import pytest
import torch
from torch import nn

import fallline
from fallline.testing.harness import drive, parameters

SHAPES = ((7, 5), (6,))
PEER = "pytorch_optimizer"
NO_EPS = {"eps": 1e-30}  # where the library adds eps before the bias correction

CASES = [
    # ours, its arguments, the library, the name there, its arguments
    ("Adan", {"weight_decay": 0.1}, PEER, "Adan", {"weight_decay": 0.1, "weight_decouple": False}),
    ("Adan", {"weight_decay": 0.1, "proximal": False}, PEER, "Adan", {"weight_decay": 0.1, "weight_decouple": True}),
    ("AdamP", {"weight_decay": 0.1, "delta": 0.9, **NO_EPS}, PEER, "AdamP", {"weight_decay": 0.1, "delta": 0.9, **NO_EPS}),
    ("SGDP", {"delta": 0.9}, PEER, "SGDP", {"delta": 0.9, "momentum": 0.9}),
    ("SGDW", {"weight_decay": 0.1}, PEER, "SGDW", {"weight_decay": 0.1, "momentum": 0.9}),
    ("NovoGrad", {"weight_decay": 0.1}, PEER, "NovoGrad", {"weight_decay": 0.1}),
    ("AdaBound", {"gamma": 0.1}, PEER, "AdaBound", {"gamma": 0.1, "final_lr": 1.0, "weight_decouple": False}),
    ("Adafactor", {"weight_decay": 0.1}, "torch.optim", "Adafactor", {"weight_decay": 0.1, "eps": (1e-30, 1e-3)}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "library", "theirs", "their_options"), CASES, ids=lambda v: str(v)[:30])
def test_equals_a_peer(name, options, library, theirs, their_options):
    peer = getattr(pytest.importorskip(library), theirs)
    for shape in SHAPES:  # by themselves: some libraries let one tensor decide for all
        ours = parameters((shape,), torch.float64)
        other = [nn.Parameter(p.detach().clone()) for p in ours]
        start = ours[0].detach().clone()
        drive(getattr(fallline.optim, name)(ours, lr=0.01, **options), range(1, 21))
        drive(peer(other, lr=0.01, **their_options), range(1, 21))
        gap, moved = (ours[0] - other[0]).detach().norm(), (other[0] - start).detach().norm()
        assert float(gap) <= 1e-9 * float(moved), shape
