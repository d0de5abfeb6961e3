r"""Transformer blocks with layer norm before each branch (Pre-LN) or after each sum (Post-LN).

Pre-LN: :math:`x + f(\mathrm{LN}(x))`; the sum is never normalised, and a last layer norm follows the stack.
Post-LN: :math:`\mathrm{LN}(x + f(x))`, as in the first Transformer; it needs a warm-up (Xiong et al., arXiv:2002.04745).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from fallline.core.claims import claim
from fallline.nn.attention import Attention
from fallline.nn.check import demand, demand_count
from fallline.nn.residual import StochasticDepth

__all__ = ["Transformer", "TransformerBlock"]

Norm = Literal["pre", "post"]


class TransformerBlock(nn.Module):
    """Attention and a feed-forward branch of GELU and width ``4 dim``, on sequences (batch, length, dim)."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        norm: Norm = "pre",
        qk_norm: bool = False,
        causal: bool = False,
        survival: float = 1.0,
    ) -> None:
        super().__init__()
        demand(
            norm in ("pre", "post"),
            f"TransformerBlock() got norm={norm!r}",
            "Expected 'pre' or 'post'",
            "Pass norm='pre'",
        )
        self.norm = norm
        self.attention = Attention(dim, num_heads, qk_norm, causal)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.drop = StochasticDepth(survival)

    def forward(self, x: Tensor) -> Tensor:
        for branch, norm in ((self.attention, self.norm1), (self.feed_forward, self.norm2)):
            x = x + self.drop(branch(norm(x))) if self.norm == "pre" else norm(x + self.drop(branch(x)))
        return x


class Transformer(nn.Sequential):
    """``depth`` blocks; after Pre-LN blocks a last layer norm."""

    def __init__(
        self, depth: int, dim: int, num_heads: int, norm: Norm = "pre", qk_norm: bool = False, causal: bool = False
    ) -> None:
        demand_count("Transformer", "depth", depth)
        blocks: list[nn.Module] = [TransformerBlock(dim, num_heads, norm, qk_norm, causal) for _ in range(depth)]
        super().__init__(*blocks, *([nn.LayerNorm(dim)] if norm == "pre" else []))


@claim("TransformerBlock", "Post-LN is torch's encoder layer, and so is Pre-LN", where="arXiv:2002.04745, table 1")
def equals_torch(lab):
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    for norm in ("pre", "post"):
        ours = TransformerBlock(8, 2, norm).double()
        theirs = nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", batch_first=True, norm_first=norm == "pre").double()
        a = ours.attention
        with torch.no_grad():
            theirs.self_attn.in_proj_weight.copy_(a.qkv.weight)
            theirs.self_attn.in_proj_bias.copy_(a.qkv.bias)
            theirs.self_attn.out_proj.load_state_dict(a.out.state_dict())
            theirs.linear1.load_state_dict(ours.feed_forward[0].state_dict())
            theirs.linear2.load_state_dict(ours.feed_forward[2].state_dict())
        yield lab.close(ours(x).detach(), theirs(x).detach(), rtol=1e-11)


@claim("Transformer", "at first the last layer's gradient shrinks like 1/sqrt(depth) under Pre-LN and does not depend on depth under Post-LN", where="arXiv:2002.04745, theorem 1")  # fmt: skip
def gradient_of_the_last_layer(lab):
    """From 2 to 32 blocks: a factor of about 4 against about 1."""
    pre, post = (_last_gradient(2, norm) / _last_gradient(32, norm) for norm in ("pre", "post"))
    yield lab.less(2.0, pre)
    yield lab.less(pre, 8.0)
    yield lab.ratio(post, 1.0, equals=1.0, rtol=0.3)


def _last_gradient(depth: int, norm: Norm) -> float:
    """Norm of the gradient of the last feed-forward weight, Xavier-initialised as in the paper, for random targets."""
    torch.manual_seed(0)
    net = Transformer(depth, 32, 1, norm).double()
    for name, p in net.named_parameters():
        if p.dim() > 1:
            nn.init.xavier_normal_(p)
        elif "bias" in name:
            nn.init.zeros_(p)
    x = torch.randn(8, 6, 32, dtype=torch.float64)
    (net(x) * torch.randn(8, 6, 32, dtype=torch.float64)).sum().backward()
    block = net[depth - 1]
    assert isinstance(block, TransformerBlock)
    return float(block.feed_forward[2].weight.grad.norm())  # type: ignore[union-attr,operator]
