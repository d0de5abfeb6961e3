"""Other libraries' optimizers where they are installed, each with the arguments that make its step as near to ours as it goes.

Peers of methods for hidden matrices get the hidden matrices; vectors and embeddings beside them take torch's fused AdamW, as their users
do. In Newton-Schulz iterations all of them compute in bfloat16, which processors without instructions for it compute many times slower than
float32. Rows named "float32" are the same code with that dtype replaced: they compare how the work is done.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from fallline.bench.contenders import Build, Contender, chain_of, for_hidden_matrices, num_slots
from fallline.bench.shapes import ParameterSet
from fallline.core.errors import InvalidValueError

__all__ = ["BLOCK", "FOR_LOOP", "PEERS", "Peer", "peers"]

FIRST_CALL_LIMIT, COMPILING_LIMIT = 60.0, 180.0
"""Seconds of the first step, after which a peer is given up; the second for those that compile."""

BLOCK = 1024
"""Our block, from which on a dimension is cut; peers that cannot cut are not timed on sets where that makes another amount of work."""

FOR_LOOP = "for-loop"
"""The layout of those that step tensor by tensor, as they are; with more words where something is replaced, compiled or left out."""


@dataclass(frozen=True)
class Peer:
    """A class of another library that takes the step of one of our methods."""

    method: str
    by: str
    path: str  # where the class is
    values: Mapping[str, Any] = field(default_factory=dict)
    layout: str = ""
    whole: bool = False  # one factor for each dimension, however long
    groups: Mapping[str, Any] = field(default_factory=dict)  # what its parameter group must say
    float32: tuple[
        tuple[str, Callable[[Any], Any]], ...
    ] = ()  # what to replace so that it iterates in float32, by what


def _with_float32(function: Any) -> Any:
    return partial(function, dtype=torch.float32)


def _unchanged(function: Any) -> Any:
    return lambda x, *rest: function(x, *rest) if rest else x


_NEWTON_SCHULZ = "zero_power_via_newton_schulz_5"

PEERS = (
    Peer("adamw", "pytorch_optimizer", "pytorch_optimizer.AdamW"),
    Peer("adamw", "heavyball", "heavyball.AdamW"),
    Peer("adamw", "optimi", "optimi.AdamW"),
    Peer("adamw", "timm", "timm.optim.AdamWLegacy"),
    Peer("lion", "pytorch_optimizer", "pytorch_optimizer.Lion"),  # heavyball 3.2 has none
    Peer("lion", "optimi", "optimi.Lion"),
    Peer("lion", "timm", "timm.optim.Lion"),
    # Muon: five iterations of three products, Nesterov momentum and Moonlight's scale everywhere.
    Peer(
        "muon", "torch", "torch.optim.Muon", {"weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"}, FOR_LOOP,
        float32=(("torch.Tensor.bfloat16", lambda _: torch.Tensor.float),),
    ),
    Peer(
        "muon", "pytorch_optimizer", "pytorch_optimizer.Muon", {"foreach": True}, "stacked",
        groups={"use_muon": True, "use_adjusted_lr": True},
        float32=((f"pytorch_optimizer.optimizer.muon.base.{_NEWTON_SCHULZ}", _with_float32),),
    ),
    Peer(
        "muon", "timm", "timm.optim.Muon", {"nesterov": True}, FOR_LOOP,
        float32=(("timm.optim.muon.zeropower_via_newtonschulz", _with_float32),),
    ),
    Peer(  # other coefficients, a set for each iteration, and Keller Jordan's scale; as many products
        "muon", "heavyball", "heavyball.Muon", {"betas": (0.95, 0.95)}, "compiled",
        float32=(("heavyball.utils.stochastic_round_", _unchanged),),
    ),
    # Shampoo: blocks of 1024, RMSprop's length, roots every 10 steps; by a coupled Newton iteration, not by eigenvalues.
    Peer(
        "shampoo", "pytorch_optimizer", "pytorch_optimizer.ScalableShampoo",
        {
            "moving_average_for_momentum": True, "nesterov": False, "start_preconditioning_step": 1,
            "preconditioning_compute_steps": 10, "block_size": BLOCK, "shape_interpretation": False, "graft_type": 3,
        },
        FOR_LOOP,
    ),
    Peer(  # the first paper's, without grafting; heavyball 3.2 has only Shampoos whose factors depend on one another
        "shampoo", "pytorch_optimizer", "pytorch_optimizer.Shampoo",
        {"momentum": 0.9, "preconditioning_compute_steps": 10}, f"{FOR_LOOP}, plain", whole=True,
    ),
    Peer("soap", "pytorch_optimizer", "pytorch_optimizer.SOAP", {"weight_decay": 0.0}, FOR_LOOP, whole=True),
    Peer(  # its last block is smaller where ours are equal
        "soap", "heavyball", "heavyball.SOAP",
        {
            "betas": (0.95, 0.95), "weight_decay": 0.0, "precondition_frequency": 10, "max_precond_dim": BLOCK,
            "merge_dims": False, "split": True,
        },
        "compiled",
    ),
    # PSGD: every step renews the preconditioner. Q is triangular in the first two, which solve with it for random vectors.
    Peer(
        "psgd", "pytorch_optimizer", "pytorch_optimizer.Kron",
        {"pre_conditioner_update_probability": 1.0, "max_size_triangular": BLOCK}, FOR_LOOP, whole=True,
    ),
    Peer(
        "psgd", "timm", "timm.optim.kron.Kron",
        {"preconditioner_update_probability": 1.0, "max_size_triangular": BLOCK}, f"{FOR_LOOP}, compiled", whole=True,
    ),
    Peer(  # products alone, as ours
        "psgd", "heavyball", "heavyball.PSGDPRO",
        {"preconditioner_update_probability": 1.0, "max_size_triangular": BLOCK, "split": True}, "compiled",
    ),
)  # fmt: skip


def peers(methods: Sequence[str], which: ParameterSet | None = None) -> tuple[list[Contender], list[str]]:
    """Other libraries' steps of these methods, built when their turn comes, and a line for each that would do other work on this set.
    What is not installed fails there, with the reason."""
    found: list[Contender] = []
    left_out: list[str] = []
    for peer in (peer for method in methods for peer in PEERS if peer.method == method):
        longest = max((max(s) for s in which.hidden if len(s) > 1), default=0) if which is not None else 0
        if which is not None and peer.whole and longest > BLOCK:
            left_out.append(
                f"{peer.by} {peer.method} on {which.name}: has no blocks, so a dimension of {longest} is other work"
            )
            continue
        slots = num_slots(chain_of(peer.method))
        limit = COMPILING_LIMIT if "compiled" in peer.layout else FIRST_CALL_LIMIT
        for narrow, layout in ((True, peer.layout), (False, f"{peer.layout}, float32")):
            if narrow or peer.float32:
                build = _build(peer, which, () if narrow else peer.float32)
                found.append(Contender(peer.method, peer.by, layout, slots, build, limit))
    return found, left_out


def _build(peer: Peer, which: ParameterSet | None, replaced: Sequence[tuple[str, Callable[[Any], Any]]]) -> Build:
    def make(params: Sequence[Tensor]) -> Any:
        module, _, name = peer.path.rpartition(".")
        cls = getattr(importlib.import_module(module), name)
        if peer.by != "torch" and cls.__module__.startswith("torch."):
            raise InvalidValueError(
                f"{peer.path} is {cls.__module__.rpartition('.')[0]}.{name} under another name. Expected a step of its own. "
                f"See the rows of torch."
            )
        apart = set(which.apart) if which is not None else set()
        split = for_hidden_matrices(peer.method)
        mine = [p for k, p in enumerate(params) if not split or (p.dim() > 1 and k not in apart)]
        given = [{"params": mine, **peer.groups}] if peer.groups else mine
        parts = [cls(given, lr=1e-3, **peer.values)]
        rest = [p for k, p in enumerate(params) if split and (p.dim() < 2 or k in apart)]
        if rest:
            parts.append(torch.optim.AdamW(rest, lr=1e-3, fused=True))
        return _Together(parts, replaced)

    return make


class _Together:
    """Optimizers that step as one, while some functions are replaced."""

    def __init__(self, parts: Sequence[Any], replaced: Sequence[tuple[str, Callable[[Any], Any]]]) -> None:
        self.parts, self.replaced = list(parts), list(replaced)

    def step(self) -> None:
        with _replacing(self.replaced):
            for part in self.parts:
                part.step()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()


@contextmanager
def _replacing(replaced: Sequence[tuple[str, Callable[[Any], Any]]]) -> Iterator[None]:
    with ExitStack() as stack:
        for path, by in replaced:
            owner, _, name = path.rpartition(".")
            holder = torch.Tensor if owner == "torch.Tensor" else importlib.import_module(owner)
            stack.enter_context(patch.object(holder, name, by(getattr(holder, name))))
        yield
