"""The stable embedding of 8-bit optimizers: a narrow initial distribution and a layer norm keep its gradients from extremes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fallline.core.claims import claim
from fallline.nn.check import demand_count

__all__ = ["StableEmbedding"]


class StableEmbedding(nn.Module):
    r"""Token embedding with Xavier-uniform weights, :math:`|w| \le \sqrt{6 / (\mathrm{tokens} + \mathrm{dim})}`, and layer norm before
    positions are added (Dettmers et al., arXiv:2110.02861, section 2.3). Tokens (...), integers, to vectors (..., dim).

    The paper also keeps the optimizer's state of this layer in 32 bits: ``Optimizer(..., state_format="8bit")`` for the others, and a second
    optimizer for this one.
    """

    def __init__(self, num_tokens: int, dim: int, padding: int | None = None) -> None:
        super().__init__()
        demand_count("StableEmbedding", "num_tokens", num_tokens)
        demand_count("StableEmbedding", "dim", dim, least=2)
        self.embedding = nn.Embedding(num_tokens, dim, padding_idx=padding)
        self.norm = nn.LayerNorm(dim)
        nn.init.xavier_uniform_(self.embedding.weight)
        if padding is not None:
            with torch.no_grad():
                self.embedding.weight[padding].zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(self.embedding(tokens))


@claim(
    "StableEmbedding",
    "weights within Xavier's bound; every vector leaves with mean 0 and variance 1",
    where="arXiv:2110.02861, section 2.3",
)
def bounded_and_normalised(lab):
    torch.manual_seed(0)
    layer = StableEmbedding(50, 14).double()
    bound = (6 / 64) ** 0.5
    size = layer.embedding.weight.detach().abs().max()
    yield lab.less(float(size), bound)
    yield lab.less(0.95 * bound, float(size))
    out = layer(torch.arange(50)).detach()
    yield lab.close(out.mean(1) + 1, 1.0)
    yield lab.close(out.var(1, unbiased=False), 1.0, rtol=2e-3)  # layer norm adds 1e-5 to variances of 0.03
