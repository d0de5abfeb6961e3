"""Who is timed: our methods in each layout, and torch's own optimizers of the same methods. Other libraries: peers.py."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import fallline.methods  # noqa: F401 (fills the registry)
from fallline.bench.shapes import ParameterSet
from fallline.core.method import METHODS
from fallline.core.optimizer import Optimizer
from fallline.core.transform import Chain
from fallline.core.types import At, Reach

__all__ = [
    "REFERENCE", "Build", "Contender", "bytes_moved", "chain_of", "flops_of", "for_hidden_matrices", "held_floats", "num_slots",
    "others", "ours",
]  # fmt: skip

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


def for_hidden_matrices(method: str) -> bool:
    """Whether a method is for hidden matrices, so that nobody gives it embeddings: those take AdamW's step, as in ``muon_groups``."""
    return METHODS[method].family == "matrix"


def held_floats(method: str) -> float:
    """Floats of state for each parameter, factors of matrices included."""
    return METHODS[method].state_bytes(**SETTINGS.get(method, {})) / _FLOAT


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


def ours(methods: Sequence[str], layouts: Sequence[str], which: ParameterSet | None = None) -> list[Contender]:
    """Every method in every layout; on a set with embeddings, methods for hidden matrices leave those to our AdamW."""

    def build(method: str, layout: str) -> Build:
        def make(params: Sequence[Tensor]) -> Any:
            apart = set(which.apart) if which is not None and for_hidden_matrices(method) else set()
            groups: list[dict[str, Any]] = [{"params": [p for k, p in enumerate(params) if k not in apart]}]
            if apart:
                groups.append({"params": [params[k] for k in sorted(apart)], "chain": chain_of("adamw")})
            return _given_a_loss(Optimizer(groups, chain_of(method), fuse=layout))  # type: ignore[arg-type]

        return make

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
