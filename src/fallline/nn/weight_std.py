r"""Weight standardisation: every output unit's weights have mean 0 and a fixed size, whatever the optimizer does to them.

Both are torch parametrizations: ``layer.weight`` becomes a function of ``layer.parametrizations.weight.original``, which is trained.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fallline.core.claims import claim
from fallline.core.groups import matches
from fallline.nn.check import demand
from fallline.nn.init import WEIGHTED, fan_in
from fallline.nn.quadrature import variance_gain

__all__ = ["ScaledStandardised", "Standardised", "parametrise", "scaled_weight_standardise", "weight_standardise"]

Model = TypeVar("Model", bound=nn.Module)


def centred(weight: Tensor) -> Tensor:
    """Each output unit's weights minus their mean."""
    return weight - weight.mean(tuple(range(1, weight.dim())), keepdim=True)


class Standardised(nn.Module):
    r""":math:`\hat W_i = (W_i - \mu_i) / (\sigma_i + \epsilon)` over the inputs of unit i (Qiao et al., arXiv:1903.10520).

    Made for layers that a normalisation follows, which takes the size of the result, :math:`\sqrt{\mathrm{fan\_in}}`, away.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, weight: Tensor) -> Tensor:
        w = centred(weight)
        deviation = w.square().mean(tuple(range(1, w.dim())), keepdim=True).sqrt()
        return w / (deviation + self.eps)


class ScaledStandardised(nn.Module):
    r""":math:`\hat W_i = g_i \gamma (W_i - \mu_i) / (\sigma_i \sqrt{N})`, N the fan-in: a unit of norm :math:`g_i \gamma` (Brock et al.,
    arXiv:2101.08692).

    ``gamma`` is the activation's ``variance_gain``; the gains g, one for each output, start at 1 and are trained.
    """

    def __init__(self, num_outputs: int, gamma: float = 1.0, eps: float = 1e-4) -> None:
        super().__init__()
        self.gamma, self.eps = gamma, eps
        self.gain = nn.Parameter(torch.ones(num_outputs))

    def forward(self, weight: Tensor) -> Tensor:
        w = centred(weight)
        squares = w.square().sum(
            tuple(range(1, w.dim())), keepdim=True
        )  # N sigma^2, which the paper's code bounds by eps
        gain = self.gain.reshape(-1, *[1] * (w.dim() - 1))
        return gain * self.gamma * w * squares.clamp(min=self.eps).rsqrt()


def parametrise(model: Model, make: type[nn.Module] | object, pattern: str, where: str) -> Model:
    """Register ``make(layer)`` for the weight of all linear and convolutional layers whose name matches; none is an error."""
    layers = [m for name, m in model.named_modules() if isinstance(m, WEIGHTED) and matches(name, pattern)]
    demand(
        bool(layers),
        f"{where}() found no linear or convolutional layer of {type(model).__name__} that matches {pattern!r}",
        "Expected at least one",
        "Pass a pattern on module names, such as '*' or 'features.*'",
    )
    for layer in layers:
        assert callable(make)
        demand(
            fan_in(layer.weight) > 1,
            f"{where}() got a layer whose units have one input: {layer}",
            "Expected two or more: one weight minus its mean is 0",
            "Leave the layer out of the pattern",
        )
        parametrize.register_parametrization(layer, "weight", make(layer))
    return model


def weight_standardise(model: Model, pattern: str = "*", eps: float = 1e-5) -> Model:
    """Standardise the weights of all linear and convolutional layers whose module name matches, in place; returns the model."""
    return parametrise(model, lambda layer: Standardised(eps), pattern, "weight_standardise")


def scaled_weight_standardise(model: Model, pattern: str = "*", activation: object = None) -> Model:
    """The same with scaled standardisation; ``activation`` is the function before these layers, whose ``variance_gain`` they make
    up for (None: no gain)."""
    gamma = 1.0 if activation is None else variance_gain(activation)  # type: ignore[arg-type]

    def make(layer: nn.Module) -> nn.Module:
        assert isinstance(layer.weight, Tensor)
        return ScaledStandardised(len(layer.weight), gamma).to(layer.weight)

    return parametrise(model, make, pattern, "scaled_weight_standardise")


@claim(
    "weight_standardise",
    "the mean over channels stays 0, at start and after steps",
    where="arXiv:1903.10520",
)
def channel_mean(lab):
    torch.manual_seed(0)
    conv = weight_standardise(nn.Conv2d(4, 8, 3, bias=False).double())
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.5)
    for _ in range(3):
        yield lab.close(conv.weight.detach().mean((1, 2, 3)) + 1, 1.0, rtol=1e-14)
        yield lab.close(conv(torch.full((1, 4, 3, 3), 7.0, dtype=torch.float64)).detach() + 1, 1.0, rtol=1e-12)
        conv(torch.randn(2, 4, 5, 5, dtype=torch.float64)).square().sum().backward()
        optimizer.step()


@claim("scaled_weight_standardise", "every unit has norm gamma, so that ReLU layers keep variance 1", where="arXiv:2101.08692")  # fmt: skip
def unit_norms(lab):
    torch.manual_seed(0)
    layer = scaled_weight_standardise(nn.Linear(256, 64, bias=False).double(), activation=torch.relu)
    gamma = math.sqrt(2 / (1 - 1 / math.pi))
    yield lab.equal(layer.weight.detach().norm(dim=1), gamma)
    yield lab.close(layer.weight.detach().mean(1) + 1, 1.0, rtol=1e-14)
    h = torch.randn(4096, 256, dtype=torch.float64)
    yield lab.close(layer(torch.relu(h)).detach().var(), 1.0, rtol=0.05)


@claim(
    "weight_standardise",
    "the gradient is orthogonal to the weights and has mean 0",
    where="arXiv:1903.10520",
)
def gradient_is_projected(lab):
    torch.manual_seed(0)
    layer = weight_standardise(nn.Linear(9, 5, bias=False).double(), eps=0.0)
    layer(torch.randn(3, 9, dtype=torch.float64)).pow(3).sum().backward()
    original = layer.parametrizations.weight.original
    assert isinstance(original, Tensor)
    yield lab.close((original.grad * original).sum(1).detach() + 1, 1.0, rtol=1e-9)
    yield lab.close(original.grad.sum(1) + 1, 1.0, rtol=1e-9)
