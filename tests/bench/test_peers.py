"""Peers: which tensors they get, that they do the work of ours, and what their rows in float32 are. No test looks at a clock."""

import math
import sys
import types

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fallline.bench import SETS, ParameterSet
from fallline.bench.contenders import chain_of, flops_of, for_hidden_matrices, ours
from fallline.bench.measure import _Flight, flights
from fallline.bench.peers import BLOCK, FOR_LOOP, PEERS, Peer, peers
from fallline.core.errors import InvalidValueError
from fallline.core.method import METHODS
from fallline.core.optimizer import Optimizer

EMBEDDED = ParameterSet("x", "an embedding, two matrices, a bias", ((40, 6), (6, 8), (8, 6), (6,)), 2, 2, (0,))


def parameters(which):
    made = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=made).requires_grad_() for s in which.shapes]


def drive(build, which, steps=3):
    """Where the parameters end."""
    params = parameters(which)
    optimizer = build(params)
    made = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=made)
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach() for p in params]


def peer(layout, which=EMBEDDED):
    (found,) = [c for c in peers(["muon"], which)[0] if (c.by, c.layout) == ("torch", layout)]
    return found


def test_embeddings_and_heads_of_the_sets():
    assert [SETS[name].apart for name in ("large", "small")] == [(), ()]
    assert [SETS["gpt2"].shapes[k] for k in SETS["gpt2"].apart] == [(50257, 768), (1024, 768)]
    assert [SETS["mixed"].shapes[k] for k in SETS["mixed"].apart] == [(1000, 512), (4096, 256), (256, 256)]
    hidden = SETS["gpt2"].hidden
    assert sum(math.prod(s) for s in hidden) == SETS["gpt2"].numel - 51281 * 768
    assert sum(len(s) == 2 for s in hidden) == 48


def test_methods_for_hidden_matrices_leave_embeddings_to_adamw():
    assert [m for m in METHODS if for_hidden_matrices(m)] == ["mars_shampoo", "muon", "psgd", "shampoo", "soap"]
    (muon,) = ours(["muon"], ["eager"], EMBEDDED)
    found = drive(muon.build, EMBEDDED)
    adamw = drive(lambda params: Optimizer(params, chain_of("adamw"), fuse="eager"), EMBEDDED)
    plain = drive(lambda params: Optimizer(params, chain_of("muon"), fuse="eager"), EMBEDDED)
    assert torch.equal(found[0], adamw[0])
    assert not torch.equal(found[0], plain[0])
    assert all(torch.equal(p, q) for p, q in zip(found[1:], plain[1:], strict=True))
    (lion,) = ours(["lion"], ["eager"], EMBEDDED)
    plain = drive(lambda params: Optimizer(params, chain_of("lion"), fuse="eager"), EMBEDDED)
    assert all(torch.equal(p, q) for p, q in zip(drive(lion.build, EMBEDDED), plain, strict=True))


def test_a_peer_gets_the_hidden_matrices_and_the_rest_takes_adamws_step(monkeypatch):
    class Theirs(torch.optim.SGD):
        def __init__(self, params, lr):
            super().__init__(params, lr=0.0)

    module = types.ModuleType("theirs")
    module.Theirs, Theirs.__module__ = Theirs, "theirs"
    monkeypatch.setitem(sys.modules, "theirs", module)
    monkeypatch.setattr("fallline.bench.peers.PEERS", [Peer("soap", "theirs", "theirs.Theirs")])
    (found,), left_out = peers(["soap", "muon"], EMBEDDED)
    assert not left_out
    moved = [not torch.equal(p, q) for p, q in zip(drive(found.build, EMBEDDED), parameters(EMBEDDED), strict=True)]
    assert moved == [True, False, False, True]


def test_torchs_muon_does_the_work_that_is_counted_and_in_float32_takes_our_step():
    params = parameters(EMBEDDED)
    optimizer = peer(FOR_LOOP).build(params)
    for p in params:
        p.grad = torch.ones_like(p)
    with FlopCounterMode(display=False) as counted:
        optimizer.step()
    assert counted.get_total_flops() == flops_of("muon", EMBEDDED.hidden) > 0
    assert _Flight(EMBEDDED, ours(["muon"], ["eager"], EMBEDDED)).flops["muon"] == flops_of("muon", EMBEDDED.hidden)
    (muon,) = ours(["muon"], ["eager"], EMBEDDED)
    mine, theirs = drive(muon.build, EMBEDDED), drive(peer(f"{FOR_LOOP}, float32").build, EMBEDDED)
    narrow = drive(peer(FOR_LOOP).build, EMBEDDED)
    for k in (1, 2):
        start = parameters(EMBEDDED)[k].detach()
        error, coarse = ((x[k] - mine[k]).norm() / (mine[k] - start).norm() for x in (theirs, narrow))
        assert error < 1e-4 < coarse
    assert torch.ones(2).bfloat16().dtype is torch.bfloat16  # what was replaced is back


def test_peers_without_blocks_are_left_out_where_ours_cut():
    methods = ["shampoo", "soap", "psgd"]
    everyone, left_out = peers(methods, SETS["small"])
    assert not left_out
    found, left_out = peers(methods, SETS["gpt2"])
    whole = [p for p in PEERS if p.whole]
    assert len(found) == len(everyone) - len(whole)
    assert len(left_out) == len(whole)
    assert "pytorch_optimizer soap on gpt2: has no blocks, so a dimension of 3072 is other work" in left_out
    for method in methods:
        assert any(getattr(step, "block", None) == BLOCK for step in chain_of(method).steps)


def test_all_peers_are_of_methods_there_are_and_have_rows_of_their_own():
    assert {p.method for p in PEERS} == {"adamw", "lion", "muon", "shampoo", "soap", "psgd"}
    found, _ = peers(list(METHODS))
    assert len({(c.method, c.by, c.layout) for c in found}) == len(found)
    narrow = {c.by for c in found if c.method == "muon"}
    assert narrow == {c.by for c in found if c.layout.endswith("float32")}


@pytest.mark.parametrize("which", PEERS, ids=lambda p: f"{p.method}-{p.by}")
def test_a_peer_that_is_installed_takes_the_step(which, monkeypatch):
    if which.by == "heavyball":
        pytest.skip("compiles for minutes; `fallline bench step --peers` runs it")
    try:
        __import__(which.path.rpartition(".")[0])
    except ImportError as error:
        pytest.skip(f"not installed: {error}")
    monkeypatch.setattr("fallline.bench.peers.PEERS", [which])
    for contender in peers([which.method], EMBEDDED)[0]:
        try:
            ends = drive(contender.build, EMBEDDED, steps=10)  # the first at which some have roots
        except InvalidValueError as error:
            assert which.method == "adamw"
            pytest.skip(str(error))
        assert not any(torch.equal(p, q) for p, q in zip(ends, parameters(EMBEDDED), strict=True)), contender


def test_state_of_factors_counts_where_memory_is_short():
    one = ParameterSet("x", "", ((10**9,),), 1, 1)
    soap, adamw = ours(["soap", "adamw"], ["eager"])
    room = int(58e9)  # the reference 16, what all share 20.5: AdamW's 16 fit, SOAP's 32 do not
    groups, left_out = flights(one, [adamw, soap], room)
    assert [c.method for c in groups[0]] == ["adamw"]
    assert "soap on x: needs 32.0 GB" in left_out[0]
