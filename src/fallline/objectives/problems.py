"""Small problems in float64 on which claims are checked: quadratics with a minimum for each example, and small networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fallline.core.oracle import Batch, Oracle, of_loss, of_module

__all__ = ["Point", "classifier", "quadratic"]


class Point(nn.Module):
    """Two parameters, ``a`` of 3 and ``b`` of 2 numbers; calling it returns them as one vector, shape (5,)."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        made = torch.Generator().manual_seed(seed)
        self.a = nn.Parameter(torch.randn(3, generator=made, dtype=torch.float64))
        self.b = nn.Parameter(torch.randn(2, generator=made, dtype=torch.float64))

    def forward(self) -> Tensor:
        return torch.cat([self.a, self.b])


def quadratic(seed: int = 1, examples: int = 6) -> tuple[Oracle, Batch, Tensor, Tensor]:
    """``(w - c_i)' H (w - c_i) / 2`` for example i; oracle, the batch of the c_i (examples, 5), H (5, 5) and the mean c (5,)."""
    made = torch.Generator().manual_seed(seed)
    root = torch.randn(5, 5, generator=made, dtype=torch.float64)
    h = root @ root.T / 5 + 0.1 * torch.eye(5, dtype=torch.float64)
    centres = torch.randn(examples, 5, generator=made, dtype=torch.float64)

    def loss(model: Point, batch: Batch) -> Tensor:
        off = model() - batch[0]
        return ((off @ h) * off).sum(-1) / 2

    return of_loss(Point(), loss), (centres,), h, centres.mean(0)


def classifier(seed: int = 2, examples: int = 24, relu: bool = False) -> tuple[Oracle, Batch]:
    """A network of 4-6-3 units with tanh or ReLU, and a batch for it (inputs, labels), cross-entropy."""
    made = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU() if relu else nn.Tanh(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=made, dtype=torch.float64) / 2)
    inputs = torch.randn(examples, 4, generator=made, dtype=torch.float64)
    labels = torch.randint(3, (examples,), generator=made)
    return of_module(model, F.cross_entropy), (inputs, labels)
