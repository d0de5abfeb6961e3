r"""Residual branches that start as nothing: SkipInit and ReZero are one trained number; stochastic depth leaves whole branches out.

.. math:: x_{l+1} = x_l + \alpha_l f_l(x_l)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fallline.core.claims import claim
from fallline.nn.check import demand, demand_count

__all__ = ["Residual", "StochasticDepth", "rezero", "skip_init", "survival"]


class Residual(nn.Module):
    r""":math:`s(x) + \alpha f(x)`: ``branch`` f, ``shortcut`` s (None: the identity), and a trained scalar ``scale`` :math:`\alpha`."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None, scale: float = 0.0) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        return (x if self.shortcut is None else self.shortcut(x)) + self.scale * self.branch(x)


def skip_init(branch: nn.Module, shortcut: nn.Module | None = None, scale: float = 0.0) -> Residual:
    r"""SkipInit: a scalar at the end of each residual branch, 0 at first or :math:`1/\sqrt{d}` of d blocks (De & Smith, arXiv:2002.10444)."""
    return Residual(branch, shortcut, scale)


def rezero(branch: nn.Module) -> Residual:
    r"""ReZero: :math:`x + \alpha f(x)`, :math:`\alpha = 0` at first (Bachlechner et al., arXiv:2003.04887); SkipInit by another name,
    for any layer: attention, feed-forward or convolution."""
    return Residual(branch)


class StochasticDepth(nn.Module):
    """Leave a residual branch out with probability ``1 - survival`` in training, for each example of the batch (first dimension) or
    for all at once, and divide by ``survival``, so that the mean is the branch, as in evaluation (Huang et al., arXiv:1603.09382, who
    multiply in evaluation instead). Put it last in the branch."""

    def __init__(self, survival: float, per_example: bool = True) -> None:
        super().__init__()
        demand(
            isinstance(survival, int | float) and not isinstance(survival, bool) and 0 < survival <= 1,
            f"StochasticDepth() got survival={survival!r}",
            "Expected the probability that the branch is kept, in (0, 1]",
            "Pass for example survival=0.9",
        )
        self.survival, self.per_example = float(survival), per_example

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.survival == 1:
            return x
        shape = (len(x) if self.per_example else 1, *[1] * (x.dim() - 1))
        return x * torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(self.survival) / self.survival

    def extra_repr(self) -> str:
        return f"survival={self.survival:g}"


def survival(num_blocks: int, last: float = 0.5) -> list[float]:
    r"""Linear decay of survival with depth, :math:`p_l = 1 - (l / L)(1 - p_L)`, l from 1 (arXiv:1603.09382, eq. 4).

    >>> survival(4)
    [0.875, 0.75, 0.625, 0.5]
    """
    demand_count("survival()", "num_blocks", num_blocks)
    demand(
        0 < last <= 1, f"survival() got last={last!r}", "Expected a probability in (0, 1]", "Pass for example last=0.5"
    )
    return [1 - block / num_blocks * (1 - last) for block in range(1, num_blocks + 1)]


@claim("skip_init", "with scale 0 any depth of blocks is the identity, backward too", where="arXiv:2002.10444; arXiv:2003.04887")  # fmt: skip
def identity_at_start(lab):
    torch.manual_seed(0)
    net = nn.Sequential(*(rezero(nn.Sequential(nn.Linear(6, 6), nn.Tanh())) for _ in range(50))).double()
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    out = net(x)
    yield lab.equal(out.detach(), x.detach())
    cotangent = torch.randn_like(out)
    yield lab.equal(torch.autograd.grad(out, x, cotangent)[0], cotangent)


@claim("skip_init", "variance grows by 1 + scale^2 in each block of a branch that keeps it, so 1/sqrt(d) keeps it below e", where="arXiv:2002.10444")  # fmt: skip
def variance_below_e(lab):
    torch.manual_seed(0)
    depth, x = 64, torch.randn(64, 128, dtype=torch.float64)
    blocks = [skip_init(nn.Linear(128, 128, bias=False), scale=depth**-0.5) for _ in range(depth)]
    net = nn.Sequential(*blocks).double()
    for block in blocks:
        nn.init.normal_(block.branch.weight, std=128**-0.5)
    growth = float(net(x).detach().var() / x.var())
    yield lab.ratio(growth, (1 + 1 / depth) ** depth, equals=1.0, rtol=0.15)


@claim("survival", "with p_L = 1/2 the expected depth is (3L - 1)/4", where="arXiv:1603.09382, section 3")
def expected_depth(lab):
    for depth in (1, 54, 110):
        yield lab.equal(sum(survival(depth)), (3 * depth - 1) / 4)


@claim("StochasticDepth", "what is kept is divided by its probability: the mean over both outcomes is the branch", where="arXiv:1603.09382, section 3")  # fmt: skip
def mean_over_outcomes(lab):
    torch.manual_seed(0)
    x = torch.ones(400, 2, dtype=torch.float64)
    out = StochasticDepth(0.8)(x)
    yield lab.equal(out.unique(), torch.tensor([0.0, 1 / 0.8], dtype=torch.float64))
    yield lab.equal(0.8 * out.unique()[1], 1.0)
    yield lab.equal(out[:, 0], out[:, 1])  # one draw for each example
    yield lab.close(out.mean(), 1.0, rtol=0.1)
