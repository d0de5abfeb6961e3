"""Residual, normaliser-free and transformer blocks; adaptive clipping rules; few-bit activations."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fallline
from fallline.core.errors import FalllineError
from fallline.methods import nesterov, sgd
from fallline.nn import (
    Attention,
    FewBit,
    FixupBlock,
    NFBlock,
    StableEmbedding,
    StochasticDepth,
    Transformer,
    TransformerBlock,
    agc_rules,
    betas,
    codebook,
    cross_entropy_with_z,
    fixup_,
    nf_resnet,
    saved_bytes,
    skip_init,
    survival,
    z_loss,
)
from fallline.nn.few_bit import pack, unpack
from fallline.nn.quadrature import derivative


def test_stochastic_depth_draws_for_each_example_or_for_all():
    torch.manual_seed(0)
    x = torch.ones(1000, 3)
    assert set(StochasticDepth(0.5)(x).unique().tolist()) == {0.0, 2.0}
    assert len(StochasticDepth(0.5, per_example=False)(x).unique()) == 1
    assert torch.equal(StochasticDepth(0.5).eval()(x), x)
    assert StochasticDepth(1.0)(x) is x
    with pytest.raises(
        FalllineError, match=r"survival=0\. Expected the probability that the branch is kept.*survival=0\.9"
    ):
        StochasticDepth(0)
    with pytest.raises(FalllineError, match=r"num_blocks=0"):
        survival(0)
    with pytest.raises(FalllineError, match=r"last=0"):
        survival(3, 0)


def test_a_residual_block_has_its_own_shortcut():
    block = skip_init(nn.Linear(3, 5), nn.Linear(3, 5), scale=0.5)
    x = torch.randn(2, 3)
    torch.testing.assert_close(block(x), block.shortcut(x) + 0.5 * block.branch(x))


def test_fixup_says_what_it_needs():
    net = nn.Sequential(FixupBlock(4, 8, stride=2), nn.Flatten(), nn.Linear(8 * 9, 3))
    fixup_(net, [net[0].branch], net[2])
    assert net(torch.randn(2, 4, 6, 6)).shape == (2, 3)
    with pytest.raises(FalllineError, match=r"branch of 1 linear.*no value for one.*skip_init"):
        fixup_(net, [nn.Linear(2, 2)], net[2])
    with pytest.raises(FalllineError, match="no residual branches"):
        fixup_(net, [], net[2])
    with pytest.raises(FalllineError, match="Flatten as head"):
        fixup_(net, [net[0].branch], net[1])


def test_betas_follow_transitions():
    assert betas([False, False, True, False]) == pytest.approx([1, 1.04**0.5, 1.08**0.5, 1.04**0.5])
    with pytest.raises(FalllineError, match=r"alpha=0\. Expected the finite positive"):
        betas([True], 0)


def test_a_normaliser_free_network_knows_its_blocks():
    net = nf_resnet([8, 16], 2, 5, inputs=1, last_survival=0.6)
    blocks = [m for m in net if isinstance(m, NFBlock)]
    assert [b.beta for b in blocks] == betas([False, False, True, False])
    assert [b.drop.survival for b in blocks] == pytest.approx([0.9, 0.8, 0.7, 0.6])
    assert [b.stride for b in blocks] == [1, 1, 2, 1]
    assert net(torch.randn(3, 1, 9, 9)).shape == (3, 5)
    with pytest.raises(FalllineError, match="got no widths"):
        nf_resnet([], 1, 2)


def test_a_transition_starts_the_variance_anew():
    torch.manual_seed(0)
    x = 2 * torch.randn(16, 32, 8, 8)
    out = NFBlock(32, 64, beta=2.0, alpha=0.5)(x)
    assert out[:, :, 2:6, 2:6].var().item() == pytest.approx(1.25, rel=0.1)


def test_clipping_rules_find_the_head():
    net = nf_resnet([4], 1, 3, inputs=1)
    rules = agc_rules(net, nesterov(lr=0.1), clipping=0.02)
    assert list(rules) == ["head.*", "*"]
    optimizer = fallline.Optimizer(net, rules, fuse="eager")
    x, y = torch.randn(16, 1, 6, 6), torch.randint(3, (16,))
    before = F.cross_entropy(net(x), y)
    for _ in range(8):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert F.cross_entropy(net(x), y) < before
    assert list(agc_rules(net, sgd(0.1), head="stem")) == ["stem.*", "*"]
    assert list(agc_rules(net, sgd(0.1), exclude="*.gain")) == ["head.*|*.gain", "*"]
    with pytest.raises(FalllineError, match=r"no head 'fc'.*one of.*head.*Pass head='fc'"):
        agc_rules(net, sgd(0.1), head="fc")
    with pytest.raises(FalllineError, match=r"no head None in ReLU"):
        agc_rules(nn.ReLU(), sgd(0.1))


def test_causal_attention_does_not_look_ahead():
    torch.manual_seed(0)
    layer, x = Attention(12, 3, qk_norm=True, causal=True), torch.randn(2, 6, 12)
    changed = x.clone()
    changed[:, 4:] += 1
    torch.testing.assert_close(layer(x)[:, :4], layer(changed)[:, :4])
    q, k, v = layer._heads(x)
    scores = layer.logits(x).masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf).softmax(-1)
    torch.testing.assert_close(layer(x), layer.out((scores @ v).transpose(1, 2).flatten(2)))
    assert q.shape == k.shape == (2, 3, 6, 4)
    with pytest.raises(FalllineError, match=r"dim=10 and num_heads=4.*dim=64"):
        Attention(10, 4)


def test_transformers():
    assert Transformer(2, 8, 2, "pre", qk_norm=True, causal=True)(torch.randn(2, 5, 8)).shape == (2, 5, 8)
    assert isinstance(Transformer(1, 8, 2, "pre")[-1], nn.LayerNorm)
    assert isinstance(Transformer(1, 8, 2, "post")[-1], TransformerBlock)
    torch.manual_seed(0)
    block, x = TransformerBlock(8, 2, survival=0.01), torch.randn(2, 5, 8)
    assert torch.equal(block(x), x)  # all branches left out
    assert not torch.equal(block.eval()(x), x)
    with pytest.raises(FalllineError, match=r"norm='middle'. Expected 'pre' or 'post'"):
        TransformerBlock(8, 2, norm="middle")


def test_z_losses():
    logits, targets = torch.randn(2, 3, 5), torch.tensor([[0, 1, -100], [2, 3, 4]])
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten()) + 0.1 * logits.logsumexp(-1).square().mean()
    torch.testing.assert_close(cross_entropy_with_z(logits, targets, 0.1), expected)
    assert z_loss(torch.log_softmax(logits, -1)).item() == pytest.approx(0, abs=1e-12)
    with pytest.raises(FalllineError, match=r"weight=-1.*weight=1e-4"):
        z_loss(logits, -1)


def test_padding_is_one_vector_that_does_not_train():
    layer = StableEmbedding(6, 4, padding=2)
    layer(torch.tensor([2, 3])).square().sum().backward()
    assert not layer.embedding.weight[2].any()
    assert not layer.embedding.weight.grad[2].any()


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 1001])
def test_packing_loses_nothing(bits, count):
    codes = torch.randint(2**bits, (count,), generator=torch.Generator().manual_seed(count))
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.numel() == bits * -(-count // 8)
    assert torch.equal(unpack(packed, count), codes)


def test_gelu_bounds_and_levels_are_the_published_ones():
    """The authors' table for 3 bits; ours stand on a grid of 0.01."""
    book = codebook(F.gelu, 3)
    bounds = [-2.39798704, -0.711248159, -0.326290283, -0.000155338, 0.326182064, 0.710855860, 2.39811567]
    levels = [-0.00260009, -0.08883533, 0.1251944, 0.37204148, 0.6277958, 0.87466175, 1.08880716, 1.00259936]
    assert book.bounds == pytest.approx(bounds, abs=0.006)
    assert book.levels == pytest.approx(levels, abs=0.003)


def test_two_levels_are_the_best_of_all_cuts():
    centres = -10 + 0.01 * (torch.arange(2000, dtype=torch.float64) + 0.5)
    d = derivative(F.gelu, centres)
    best = min(float(d[:c].var(unbiased=False) * c + d[c:].var(unbiased=False) * (2000 - c)) for c in range(1, 2000))
    assert codebook(F.gelu, 1).error == pytest.approx(0.01 * best, rel=1e-9)


def test_three_levels_need_no_fourth():
    """Of a function with three levels, two bits use three."""
    book = codebook(F.hardtanh, 2)
    assert book.bounds == pytest.approx([-1, 1])
    assert book.levels == pytest.approx([0, 1, 0], abs=1e-12)
    x = torch.tensor([-3.0, -0.5, 0.5, 3.0], requires_grad=True)
    FewBit(F.hardtanh, 2)(x).sum().backward()
    assert x.grad.tolist() == pytest.approx([0, 1, 1, 0])


def test_the_backward_pass_uses_the_levels():
    x = torch.randn(33, dtype=torch.float64, requires_grad=True)
    layer, book = FewBit(F.gelu, 3).double(), codebook(F.gelu, 3)
    g = torch.randn(33, dtype=torch.float64)
    found = torch.autograd.grad(layer(x), x, g)[0]
    expected = [
        book.levels[sum(float(v) > b for b in book.bounds)] * float(w) for v, w in zip(x.detach(), g, strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)
    assert "bits=3" in repr(layer)
    assert not layer.state_dict()
    with pytest.raises(FalllineError, match=r"bits=0\. Expected a whole number from 1 to 6"):
        FewBit(F.gelu, 0)


def test_saved_bytes_counts_each_memory_once():
    layer = nn.Linear(16, 8)
    x = torch.randn(4, 16)
    assert saved_bytes(layer, x) == 4 * 16 * 4  # the input; the weight is a parameter
    assert saved_bytes(nn.Sequential(layer, nn.Tanh(), nn.Linear(8, 2)), x) == 4 * 4 * (
        16 + 8
    )  # tanh's output is the next input
    ours = saved_bytes(nn.Sequential(layer, FewBit(F.gelu, 2), nn.Linear(8, 2)), x)
    assert saved_bytes(nn.Sequential(layer, nn.GELU(), nn.Linear(8, 2)), x) - ours == 4 * 8 * 4 - 8
    assert layer.weight.grad is None
