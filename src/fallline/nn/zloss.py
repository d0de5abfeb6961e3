r"""z-loss: a small penalty that keeps the logarithm of softmax's normaliser at 0, which cross-entropy alone leaves to drift.

.. math:: L_z = \lambda \, \mathrm{mean} \log^2 Z, \qquad Z = \sum_i e^{z_i}
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fallline.core.claims import claim
from fallline.nn.check import demand

__all__ = ["cross_entropy_with_z", "z_loss"]


def z_loss(logits: Tensor, weight: float = 1e-4) -> Tensor:
    r""":math:`\lambda \, \mathrm{mean} \log^2 Z` of logits (..., classes), a number (Wortsman et al., arXiv:2309.14322, section 3.1.2;
    PaLM, arXiv:2204.02311, section 5)."""
    demand(
        isinstance(weight, int | float) and weight >= 0 and logits.dim() >= 1,
        f"z_loss() got weight={weight!r} and logits of shape {tuple(logits.shape)}",
        "Expected a weight of at least 0 and logits (..., classes)",
        "Pass the paper's weight=1e-4",
    )
    return weight * torch.logsumexp(logits, -1).square().mean()


def cross_entropy_with_z(logits: Tensor, targets: Tensor, weight: float = 1e-4) -> Tensor:
    """Mean cross-entropy of logits (..., classes) and targets (...), plus their z-loss; ``targets`` of -100 count in the latter only."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten()) + z_loss(logits, weight)


@claim("z_loss", "the gradient is 2 lambda log Z softmax(z), by which the mean of the logits, free under cross-entropy, is held", where="arXiv:2309.14322, section 3.1.2")  # fmt: skip
def gradient(lab):
    torch.manual_seed(0)
    z = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    found = torch.autograd.grad(z_loss(z, 0.3), z)[0]
    with torch.no_grad():
        yield lab.equal(found, 2 * 0.3 / 3 * z.logsumexp(-1, keepdim=True) * z.softmax(-1))
    targets = torch.tensor([0, 4, 2])
    plain = torch.autograd.grad(F.cross_entropy(z, targets), z)[0]
    held = torch.autograd.grad(cross_entropy_with_z(z, targets, 0.3), z)[0]
    yield lab.close(plain.sum(-1) + 1, 1.0)
    with torch.no_grad():
        yield lab.close(held.sum(-1), 2 * 0.3 / 3 * z.logsumexp(-1))
