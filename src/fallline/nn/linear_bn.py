r"""Batch normalisation without gradient explosion: orthogonal weights, no activation, and no mean taken off.

.. math:: X_{l+1} = N(W_l X_l), \qquad N(X)_i = X_i / \mathrm{rms}(X_i), \qquad W_l \text{ orthogonal}

over the examples of the batch, for each feature i. With as many examples as features, gradients of such a network are bounded at any
depth and the examples come to be orthogonal; with Gaussian weights gradients grow by a factor in every layer (Meterez et al.,
arXiv:2310.02012). With fewer examples than features we see them grow with orthogonal weights, too; docs/nn.md has the numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fallline.core.claims import claim
from fallline.nn.check import demand, demand_count

__all__ = ["RmsBatchNorm", "isometry_gap", "orthogonal_batch_norm_network"]


class RmsBatchNorm(nn.Module):
    """Divide each feature of (batch, features) by its root mean square over the batch; in evaluation by a running one."""

    def __init__(self, num_features: int, momentum: float = 0.1, eps: float = 1e-12) -> None:
        super().__init__()
        demand_count("RmsBatchNorm", "num_features", num_features)
        self.momentum, self.eps = momentum, eps
        self.running_square: Tensor
        self.register_buffer("running_square", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x * (self.running_square + self.eps).rsqrt()
        square = x.square().mean(0)
        with torch.no_grad():
            self.running_square.lerp_(square, self.momentum)
        return x * (square + self.eps).rsqrt()


def orthogonal_batch_norm_network(
    width: int, depth: int, inputs: int, outputs: int, orthogonal: bool = True
) -> nn.Sequential:
    """Inputs (batch, inputs) to (batch, outputs): a linear layer into ``width``, ``depth`` pairs of a square orthogonal linear layer and
    RmsBatchNorm, a linear head. Gradients are bounded where a batch has ``width`` examples. ``orthogonal=False`` draws normal weights of
    variance 1 / width instead, whose gradients explode."""
    demand_count("orthogonal_batch_norm_network()", "depth", depth)
    demand_count("orthogonal_batch_norm_network()", "width", width, least=2)
    layers: list[nn.Module] = [nn.Linear(inputs, width, bias=False)]
    for _ in range(depth):
        layer = nn.Linear(width, width, bias=False)
        if orthogonal:
            nn.init.orthogonal_(layer.weight)
        else:
            nn.init.normal_(layer.weight, std=width**-0.5)
        layers += [layer, RmsBatchNorm(width)]
    return nn.Sequential(*layers, nn.Linear(width, outputs, bias=False))


def isometry_gap(x: Tensor) -> float:
    r""":math:`-\log \frac{\det(M)^{1/n}}{\mathrm{tr}(M)/n}`, :math:`M = X X^T` of a batch (n, features): 0 if and only if the examples
    are orthogonal and of one length, infinite if they are dependent (arXiv:2310.02012)."""
    demand(
        x.dim() == 2 and len(x) <= x.shape[1],
        f"isometry_gap() got shape {tuple(x.shape)}",
        "Expected (examples, features) with no more examples than features, else the determinant is 0",
        "Take fewer examples",
    )
    squares = torch.linalg.svdvals(x).square()
    return float(squares.mean().log() - squares.log().mean())


@claim("orthogonal_batch_norm_network", "gradients do not grow with depth; with Gaussian weights their logarithm grows linearly", where="arXiv:2310.02012")  # fmt: skip
def gradients_are_bounded(lab):
    """Ratio of the first to the last square layer's gradient norm; batch and width are 32."""
    at_100, at_400 = _gradient_ratio(100, True), _gradient_ratio(400, True)
    yield lab.less(max(at_100, at_400), 3.0)
    yield lab.less(at_400 / at_100, 2.0)
    yield lab.less(20.0, _gradient_ratio(400, False) / _gradient_ratio(100, False))


@claim("orthogonal_batch_norm_network", "the examples of a batch become orthogonal in depth", where="arXiv:2310.02012")
def representations_become_orthogonal(lab):
    net, x = _network(200, True)
    before, after = isometry_gap(net[0](x).detach()), isometry_gap(net[:-1](x).detach())
    yield lab.less(after, 1e-2 * before)
    yield lab.close(1 + isometry_gap(nn.init.orthogonal_(torch.empty(4, 9, dtype=torch.float64))), 1.0)


def _network(depth: int, orthogonal: bool) -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    net = orthogonal_batch_norm_network(32, depth, 32, 32, orthogonal).double()
    return net, torch.randn(32, 32, dtype=torch.float64)


def _gradient_ratio(depth: int, orthogonal: bool) -> float:
    net, x = _network(depth, orthogonal)
    (net(x) * torch.randn(32, 32, dtype=torch.float64)).sum().backward()
    first, last = net[1], net[2 * depth - 1]
    return float(first.weight.grad.norm() / last.weight.grad.norm())  # type: ignore[union-attr,operator]
