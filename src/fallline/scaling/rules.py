r"""How hyperparameters move when the batch grows by a factor k, as data: what a rule changes, keeps, needs at zero, and for whom.

============ ======================================= =============================================================================
rule         for                                     :math:`k = B'/B`
============ ======================================= =============================================================================
``linear``   SGD, with or without momentum           :math:`\eta' = k \eta` (Goyal et al., arXiv:1706.02677, section 2.1)
``sqrt``     Adam, RMSProp                           :math:`\eta' = \sqrt{k}\,\eta,\; 1 - \beta' = k (1 - \beta),\; \epsilon' = \epsilon / \sqrt{k}` (Malladi et al., arXiv:2205.10287)
``rmt``      SGD; Adam and its kind                  :math:`\eta' = k \eta` for SGD, :math:`\sqrt{k}\,\eta` for Adam (Granziol et al., arXiv:2006.09092, abstract)
``surge``    methods that step by the sign, and Adam :math:`\eta' / \eta = s(B') / s(B),\; s(B) = 2 / (\sqrt{B_n/B} + \sqrt{B/B_n})` (Li et al., arXiv:2405.14578)
============ ======================================= =============================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["RULES", "Rule", "surge"]

Move = Callable[[Any, float], Any]
"""A hyperparameter's value or schedule, and k, to the new one."""


def _linear(value: Any, k: float) -> Any:
    return k * value


def _root(value: Any, k: float) -> Any:
    return k**0.5 * value


def _inverse_root(value: Any, k: float) -> Any:
    return k**-0.5 * value


def _horizon(value: Any, k: float) -> Any:
    """1 - b' = k (1 - b); a decay rate of 0, no average at all, stays."""
    return 0.0 if isinstance(value, int | float) and value == 0 else k * value + (1 - k)


@dataclass(frozen=True)
class Rule:
    """What a rule does to each hyperparameter of the methods that it covers; hyperparameters and options beyond are refused."""

    methods: tuple[str, ...]
    moves: Mapping[str, Move]
    keeps: frozenset[str] = frozenset()
    zero: Mapping[str, str] = field(default_factory=dict)  # must be 0 or False; else the reason to refuse


def surge(batch: float, noise_scale: float) -> float:
    """The best rate at a batch over the best at ``noise_scale``, its peak (arXiv:2405.14578): 2 / (sqrt(Bn/B) + sqrt(B/Bn))."""
    return 2 / ((noise_scale / batch) ** 0.5 + (batch / noise_scale) ** 0.5)


_SGD = ("sgd", "nesterov", "heavy_ball", "sgdw")
_ADAM = ("adam", "adamw", "rmsprop")
_LINEAR = Rule(_SGD, {"lr": _linear}, frozenset({"momentum", "dampening", "weight_decay", "nesterov"}))
_KEPT = frozenset({
    "b1", "b2", "eps", "weight_decay", "amsgrad", "decoupled_weight_decay", "momentum", "centered", "lr_decay",
    "initial_accumulator_value",
})  # fmt: skip
_NO_AMSGRAD = "the rule is derived for Adam's own average of squares"
_NO_L2 = "the rule does not say how an L2 penalty inside the moments scales; use adamw"

RULES: Mapping[str, tuple[Rule, ...]] = {
    "linear": (_LINEAR,),
    "sqrt": (
        Rule(
            ("adamw",),
            {"lr": _root, "b1": _horizon, "b2": _horizon, "eps": _inverse_root, "weight_decay": _root},
            zero={"amsgrad": _NO_AMSGRAD},
        ),
        Rule(
            ("adam", "rmsprop"),
            {"lr": _root, "b1": _horizon, "b2": _horizon, "eps": _inverse_root},
            zero={
                "amsgrad": _NO_AMSGRAD,
                "weight_decay": _NO_L2,
                "decoupled_weight_decay": "there is no decay to decouple; use adamw",
                "momentum": "the rule is derived for RMSProp without momentum; use adam",
                "centered": "the rule is derived for RMSProp that is not centred",
            },
        ),
    ),
    "rmt": (
        _LINEAR,
        Rule(
            (*_ADAM, "amsgrad", "adagrad", "nadam", "radam", "adabelief", "adamax"),
            {"lr": _root},
            _KEPT | {"momentum_decay", "variant"},
        ),
    ),
    "surge": (
        Rule(
            (*_ADAM, "signsgd", "signum", "lion", "adagrad"),
            {"lr": _linear},  # with the ratio of the surge formula in place of k
            _KEPT,
        ),
    ),
}
