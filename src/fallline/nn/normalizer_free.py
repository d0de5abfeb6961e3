r"""Normaliser-free residual networks: the variance of the signal is known in advance, so that no layer has to measure it.

.. math:: x_{l+1} = x_l + \alpha f_l(x_l / \beta_l), \qquad \beta_l^2 = \mathrm{Var}(x_l), \qquad
   \mathrm{Var}(x_{l+1}) = \mathrm{Var}(x_l) + \alpha^2,

for branches :math:`f_l` that keep variance 1 (Brock et al., arXiv:2101.08692). In transition blocks, where the shape
changes, the shortcut starts from :math:`x_l / \beta_l` too, and the variance begins anew at :math:`1 + \alpha^2`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fallline.core.claims import claim
from fallline.nn.check import demand, demand_count
from fallline.nn.quadrature import Activation
from fallline.nn.residual import StochasticDepth, survival
from fallline.nn.weight_std import scaled_weight_standardise

__all__ = ["NFBlock", "betas", "nf_resnet"]


def betas(transitions: Sequence[bool], alpha: float = 0.2) -> list[float]:
    r"""Standard deviations :math:`\beta_l` of the inputs of a chain of blocks; ``transitions[l]`` says whether block l changes the shape.

    >>> [round(b, 4) for b in betas([True, False, False, True, False])]
    [1.0, 1.0198, 1.0392, 1.0583, 1.0198]
    """
    demand(
        isinstance(alpha, int | float) and 0 < alpha < float("inf"),
        f"betas() got alpha={alpha!r}",
        "Expected the finite positive factor of the branches",
        "Pass for example alpha=0.2",
    )
    variance, found = 1.0, []
    for transition in transitions:
        found.append(variance**0.5)
        variance = (1.0 if transition else variance) + alpha**2
    return found


class NFBlock(nn.Module):
    r"""A pre-activation block, (batch, inputs, height, width) to (batch, outputs, ...): division by :math:`\beta`, activation, and two
    3x3 convolutions with scaled weight standardisation.

    ``zero_init`` adds SkipInit's scalar, 0 at first, as NFNets do (arXiv:2102.06171); the signal is then the shortcut's at first.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int = 1,
        beta: float = 1.0,
        alpha: float = 0.2,
        activation: Activation = torch.relu,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.stride, self.activation = alpha, beta, stride, activation
        self.first = _convolution(inputs, outputs, 3, stride)
        self.second = _convolution(outputs, outputs, 3)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else _convolution(inputs, outputs, 1)
        scaled_weight_standardise(self, activation=activation)
        self.gain = nn.Parameter(torch.zeros(())) if zero_init else None
        self.drop: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.activation(x / self.beta)
        if self.shortcut is None:
            shortcut = x
        else:
            shortcut = self.shortcut(F.avg_pool2d(h, self.stride, ceil_mode=True) if self.stride > 1 else h)
        branch = self.drop(self.second(self.activation(self.first(h))))
        return shortcut + self.alpha * (branch if self.gain is None else self.gain * branch)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha:g}, beta={self.beta:.4g}"


def nf_resnet(
    widths: Sequence[int],
    blocks: int,
    num_classes: int,
    inputs: int = 3,
    activation: Activation = torch.relu,
    zero_init: bool = True,
    last_survival: float = 1.0,
) -> nn.Sequential:
    r"""A small residual network without normalisation: a 3x3 stem, ``blocks`` blocks of each width with :math:`\alpha = 0.2` (the first
    one of every later width halves the image), activation, mean over the image, and a linear head named ``head``.

    Images (batch, inputs, height, width) of mean 0 and variance 1. Train it with ``agc_rules``.
    """
    demand(
        bool(widths),
        "nf_resnet() got no widths",
        "Expected the channels of each stage",
        "Pass for example [16, 32, 64]",
    )
    demand_count("nf_resnet()", "blocks", blocks)
    plan = [(width, i == 0) for width in widths for i in range(blocks)]
    kept = survival(len(plan), last_survival)
    net, before = nn.Sequential(), widths[0]
    net.add_module("stem", scaled_weight_standardise(_convolution(inputs, widths[0], 3)))
    moves = [width != last for (width, _), last in zip(plan, [widths[0], *(w for w, _ in plan)], strict=False)]
    for i, ((width, first), beta) in enumerate(zip(plan, betas(moves), strict=True)):
        block = NFBlock(before, width, 2 if first and i else 1, beta, activation=activation, zero_init=zero_init)
        if last_survival < 1:
            block.drop = StochasticDepth(kept[i])
        net.add_module(f"block{i + 1}", block)
        before = width
    net.add_module("act", _Act(activation))
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flatten", nn.Flatten())
    net.add_module("head", nn.Linear(before, num_classes))
    return net


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    """Weights of norm 1 for each unit, as after standardisation: their norm divides the gradient of a weight that is standardised."""
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
    return conv


class _Act(nn.Module):
    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x)


@claim("betas", "variance grows by alpha^2 in each block and begins anew at 1 + alpha^2 after a transition", where="arXiv:2101.08692")  # fmt: skip
def recursion(lab):
    found = torch.tensor(betas([True, *[False] * 9, True, False], alpha=0.5), dtype=torch.float64).square()
    yield lab.equal(found[1:11], 1 + 0.25 * torch.arange(1, 11, dtype=torch.float64))
    yield lab.equal(found[11], 1.25)


@claim(
    "NFBlock",
    "the variance of the signal is the one computed in advance, at any depth",
    where="arXiv:2101.08692",
)
def signal_is_known(lab):
    torch.manual_seed(0)
    x = torch.randn(16, 64, 9, 9, dtype=torch.float64)
    expected = [*betas([False] * 6, alpha=0.7), (1 + 6 * 0.49) ** 0.5]
    for beta, after in zip(expected, expected[1:], strict=False):
        x = NFBlock(64, 64, beta=beta, alpha=0.7).double()(x).detach()
        yield lab.close(x[:, :, 3:6, 3:6].var(), after**2, rtol=0.12)  # away from the zeros at the border


@claim("NFBlock", "with SkipInit's scalar a block is the identity at first", where="arXiv:2102.06171")
def identity(lab):
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    yield lab.equal(NFBlock(4, 4, beta=1.3, zero_init=True).double()(x).detach(), x)
