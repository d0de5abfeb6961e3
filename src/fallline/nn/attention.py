r"""Multi-head attention with layer norm on queries and keys (qk-layernorm), which bounds what softmax sees.

.. math:: \mathrm{softmax}\!\left(\mathrm{LN}(q)\, \mathrm{LN}(k)^T / \sqrt d\right) v, \qquad |\mathrm{logit}| \le \sqrt d
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fallline.core.claims import claim
from fallline.nn.check import demand, demand_count

__all__ = ["Attention"]


class Attention(nn.Module):
    r"""Self-attention of sequences (batch, length, dim); ``qk_norm`` puts a layer norm over each head's queries and keys before their
    product (Dehghani et al., arXiv:2302.05442; Wortsman et al., arXiv:2309.14322, section 3.1.1).

    With ``qk_norm`` a scale of the query and key weights has no effect, and each logit is at most :math:`\sqrt{d}`, d the size of a head,
    as long as the norms' gains are 1.
    """

    def __init__(self, dim: int, num_heads: int, qk_norm: bool = False, causal: bool = False) -> None:
        super().__init__()
        demand_count("Attention", "num_heads", num_heads)
        demand(
            isinstance(dim, int) and dim > 0 and dim % num_heads == 0,
            f"Attention() got dim={dim!r} and num_heads={num_heads}",
            "Expected a dimension that the number of heads divides",
            f"Pass for example dim={16 * num_heads}",
        )
        self.num_heads, self.causal = num_heads, causal
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        size = dim // num_heads
        self.q_norm: nn.Module = nn.LayerNorm(size) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = nn.LayerNorm(size) if qk_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self._heads(x)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def logits(self, x: Tensor) -> Tensor:
        """What softmax gets before the mask, (batch, heads, length, length): watch its largest entry, which grows before a divergence
        (arXiv:2309.14322)."""
        q, k, _ = self._heads(x)
        return q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (batch, heads, length, size)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.q_norm(q), self.k_norm(k), v


@claim("Attention", "with qk-layernorm no logit exceeds sqrt(d), however large the weights; without it they grow with their square", where="arXiv:2309.14322, section 3.1.1")  # fmt: skip
def logits_are_bounded(lab):
    torch.manual_seed(0)
    x = torch.randn(2, 8, 32, dtype=torch.float64)
    normed, plain = Attention(32, 2, qk_norm=True).double(), Attention(32, 2).double()
    before = plain.logits(x).detach()
    with torch.no_grad():
        for layer in (normed, plain):
            layer.qkv.weight.mul_(100.0)
            layer.qkv.bias.mul_(100.0)
    yield lab.less(float(normed.logits(x).detach().abs().max()), 4.0)  # sqrt(16)
    yield lab.equal(plain.logits(x).detach(), 1e4 * before)


@claim(
    "Attention",
    "the sum of values by softmax of the logits, as torch's own layer computes",
    where="arXiv:1706.03762, eq. 1",
)
def equals_torch(lab):
    torch.manual_seed(0)
    ours, theirs = Attention(12, 3).double(), nn.MultiheadAttention(12, 3, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    yield lab.close(ours(x).detach(), theirs(x, x, x)[0].detach(), rtol=1e-12)
