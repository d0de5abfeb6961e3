"""Who is timed: our methods in each layout, torch's own optimizers, and other libraries where they are installed."""

from __future__ import annotations

import importlib
import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import fallline.methods  # noqa: F401 (fills the registry)
from fallline.core.errors import InvalidValueError
from fallline.core.method import METHODS
from fallline.core.optimizer import Optimizer
from fallline.core.transform import Chain
from fallline.core.types import At, Reach

__all__ = ["REFERENCE", "Contender", "bytes_moved", "chain_of", "flops_of", "num_slots", "others", "ours", "peers"]

Build = Callable[[Sequence[Tensor]], Any]

# As everybody uses it: plain SGD has no state to move.
SETTINGS: dict[str, dict[str, float]] = {"sgd": {"momentum": 0.9}}

_FLOAT = 4


@dataclass(frozen=True)
class Contender:
    """One way to take a step of one method; ``build`` makes the optimizer, and may fail: that becomes its row."""

    method: str
    by: str  # whose implementation
    layout: str
    slots: int  # of state, shaped like the parameter
    build: Build
    first_call_limit: float | None = None  # seconds; other libraries may compile for ever

    @property
    def name(self) -> str:
        """Whose and how: ``fallline auto``."""
        return f"{self.by} {self.layout}".strip()

    @property
    def bytes(self) -> int:
        """What a step has to move for each float32 parameter."""
        return bytes_moved(self.slots)

    @property
    def guard_bytes(self) -> int:
        """What our promise of a step that changes all or nothing adds: the gradient, read once before."""
        return _FLOAT if self.by == "fallline" else 0


def bytes_moved(slots: int) -> int:
    """Bytes per float32 parameter that any step must move: read p, g and each slot, write p and each slot."""
    return _FLOAT * (3 + 2 * slots)


def num_slots(chain: Chain) -> int:
    """Slots of state with the parameter's shape; numbers per tensor weigh nothing."""
    like = torch.zeros(2, 3)
    return sum(init(step, like).shape == like.shape for step in chain.steps for init in step.slots.values())


def flops_of(method: str, shapes: Sequence[tuple[int, ...]]) -> float:
    """Operations in the products of matrices of a method's second step on tensors of these shapes, in which nothing is due that is due
    every few steps. They are counted by torch on tensors without content. Zero for methods that look at no matrix."""
    steps = chain_of(method).steps if method in METHODS else ()
    if max((step.reach for step in steps), default=Reach.ELEMENT) != Reach.MATRIX:
        return 0.0
    total = 0.0
    for shape, number in Counter(shapes).items():
        p = torch.empty(shape, device="meta")
        with FlopCounterMode(display=False) as counted:
            u = p
            for step in steps:
                u, _ = step.update(u, At(p, p, 2), **{name: init(step, p) for name, init in step.slots.items()})
        total += number * counted.get_total_flops()
    return total


def chain_of(method: str) -> Chain:
    """The chain that is timed under a method's name."""
    return METHODS[method](**SETTINGS.get(method, {}))


def ours(methods: Sequence[str], layouts: Sequence[str]) -> list[Contender]:
    """Every method in every layout."""

    def build(method: str, layout: str) -> Build:
        return lambda params: _given_a_loss(Optimizer(params, chain_of(method), fuse=layout))  # type: ignore[arg-type]

    return [
        Contender(method, "fallline", layout, num_slots(chain_of(method)), build(method, layout))
        for method in methods
        for layout in layouts
    ]


def _given_a_loss(optimizer: Optimizer) -> Optimizer:
    """Where a chain needs the loss, every step is given one: how large it is does not matter to the time."""
    if any("loss" in chain.needs for chain in optimizer.chains):
        loss = torch.ones(())
        optimizer.register_step_pre_hook(lambda _, args, kwargs: (args, {**kwargs, "loss": loss}))
    return optimizer


# -- torch ----------------------------------------------------------------------------------------------------------

_TORCH: dict[str, tuple[str, dict[str, Any]]] = {  # our method -> torch's class and arguments for the same step
    "adadelta": ("Adadelta", {}),
    "adagrad": ("Adagrad", {}),
    "adam": ("Adam", {}),
    "adamax": ("Adamax", {}),
    "adamw": ("AdamW", {}),
    "amsgrad": ("Adam", {"amsgrad": True}),
    "nadam": ("NAdam", {}),
    "nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "radam": ("RAdam", {}),
    "rmsprop": ("RMSprop", {}),
    "rprop": ("Rprop", {}),
    "sgd": ("SGD", {"momentum": 0.9}),
}
_TORCH_LAYOUTS = {"fused": {"fused": True}, "foreach": {"foreach": True}, "for-loop": {"foreach": False}}


def _torch(method: str, layout: str) -> Contender | None:
    """Torch's own step of a method, or None if it has none in this layout."""
    if method not in _TORCH:
        return None
    name, values = _TORCH[method]
    cls, how = getattr(torch.optim, name), _TORCH_LAYOUTS[layout]
    if not how.keys() <= inspect.signature(cls).parameters.keys():
        return None
    slots = num_slots(chain_of(method))
    return Contender(method, "torch", layout, slots, lambda params: cls(params, lr=1e-3, **values, **how))


_reference = _torch("adamw", "fused")
assert _reference is not None
REFERENCE: Contender = _reference
"""What every time is divided by: ``torch.optim.AdamW(fused=True)``."""


def others(methods: Sequence[str], layouts: Sequence[str]) -> list[Contender]:
    """Torch's steps of the same methods in these layouts, the reference aside."""
    found = [_torch(method, layout) for method in methods for layout in layouts]
    return [c for c in found if c is not None and (c.method, c.layout) != (REFERENCE.method, REFERENCE.layout)]


# -- other libraries ------------------------------------------------------------------------------------------------

_PEERS: dict[str, tuple[str, str, str, dict[str, Any]]] = {  # label -> module, its AdamW, its Lion, arguments
    "pytorch_optimizer": ("pytorch_optimizer", "AdamW", "Lion", {}),
    "heavyball": ("heavyball", "AdamW", "", {}),  # 3.2 has no Lion
    "optimi": ("optimi", "AdamW", "Lion", {}),
    "timm": ("timm.optim", "AdamWLegacy", "Lion", {}),
}
PEER_FIRST_CALL_LIMIT = 60.0


def peers(methods: Sequence[str]) -> list[Contender]:
    """AdamW and Lion of other libraries, built when their turn comes; what is not installed fails there, with the reason."""

    def build(label: str, name: str) -> Build:
        module, _, _, values = _PEERS[label]

        def make(params: Sequence[Tensor]) -> Any:
            cls = getattr(importlib.import_module(module), name)
            if cls.__module__.startswith("torch."):
                raise InvalidValueError(
                    f"{label}.{name} is {cls.__module__.rpartition('.')[0]}.{name} under another name. Expected a step "
                    f"of its own. See the rows of torch."
                )
            return cls(params, lr=1e-3, **values)

        return make

    return [
        Contender(method, label, "", num_slots(chain_of(method)), build(label, name), PEER_FIRST_CALL_LIMIT)
        for method, column in (("adamw", 1), ("lion", 2))
        if method in methods
        for label, entry in _PEERS.items()
        if (name := str(entry[column]))
    ]
