r"""Weight conditioning: the forward pass uses rows of equal norm, so that no row's scale makes the matrix ill-conditioned.

.. math:: \hat W = E^{-1} W, \qquad E = \mathrm{diag}(\|W_1\|, \ldots, \|W_m\|)

Row equilibration is the diagonal preconditioner of Saratchandran, Wang & Lucey (arXiv:2409.03424); by van der Sluis (1969) its condition
number is within :math:`\sqrt m` of the best that any diagonal matrix on the left can reach.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from fallline.core.claims import claim
from fallline.nn.weight_std import parametrise

__all__ = ["RowEquilibrated", "condition_number", "weight_condition"]

Model = TypeVar("Model", bound=nn.Module)


class RowEquilibrated(nn.Module):
    r""":math:`W_i / \|W_i\|` for every output unit i of a weight (outputs, inputs, ...).

    ``fixed_scale=True`` takes the norms as constants in the backward pass, as a preconditioner that does not depend on W; otherwise the
    gradient goes through them, and is orthogonal to each row. Rows of zeros stay zero.
    """

    def __init__(self, fixed_scale: bool = False) -> None:
        super().__init__()
        self.fixed_scale = fixed_scale

    def forward(self, weight: Tensor) -> Tensor:
        squares = weight.square().sum(tuple(range(1, weight.dim())), keepdim=True)
        norm = squares.clamp(min=torch.finfo(weight.dtype).tiny).sqrt()
        return weight / (norm.detach() if self.fixed_scale else norm)


def weight_condition(model: Model, pattern: str = "*", fixed_scale: bool = False) -> Model:
    """Equilibrate the rows of all linear and convolutional layers whose module name matches, in place, by a torch parametrization."""
    return parametrise(model, lambda layer: RowEquilibrated(fixed_scale), pattern, "weight_condition")


@torch.no_grad()
def condition_number(weight: Tensor) -> float:
    """The largest over the smallest singular value of a weight as a matrix (outputs, all else)."""
    values = torch.linalg.svdvals(weight.flatten(1))
    return float(values[0] / values[-1])


@claim("weight_condition", "rows of different scale over orthogonal directions: from any condition number to 1", where="arXiv:2409.03424; van der Sluis 1969")  # fmt: skip
def orthogonal_rows(lab):
    torch.manual_seed(0)
    layer = nn.Linear(8, 5).double()
    scales = torch.logspace(-3, 3, 5, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(scales[:, None] * nn.init.orthogonal_(torch.empty(5, 8, dtype=torch.float64)))
    yield lab.close(condition_number(layer.weight), 1e6, rtol=1e-6)
    yield lab.close(condition_number(weight_condition(layer).weight), 1.0)


@claim("weight_condition", "within sqrt(m) of the best diagonal preconditioner", where="van der Sluis 1969")
def nearly_best(lab):
    torch.manual_seed(0)
    for _ in range(20):
        w = torch.randn(4, 7, dtype=torch.float64)
        equilibrated = condition_number(RowEquilibrated()(w))
        best = min(condition_number(d[:, None] * w) for d in torch.randn(200, 4, dtype=torch.float64).exp())
        yield lab.less(equilibrated, 2 * best * (1 + 1e-12))  # sqrt(4)
