"""Hyperparameters: their domains, and the one validator for constructors, groups, loading and schedulers."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fallline.core.errors import InvalidTypeError, InvalidValueError
from fallline.core.schedule import Schedule

__all__ = ["Domain", "check_hyper", "domain_of"]


class Domain:
    """An interval of allowed values, written as mathematicians do: ``Domain("[0, 1)")``."""

    def __init__(self, text: str) -> None:
        match = re.fullmatch(r"([\[(])\s*(\S+)\s*,\s*(\S+)\s*([\])])", text)
        assert match is not None, text
        self.text, self.low, self.high = text, float(match[2]), float(match[3])
        self.closed_low, self.closed_high = match[1] == "[", match[4] == "]"

    def __contains__(self, x: float) -> bool:
        above = x >= self.low if self.closed_low else x > self.low
        below = x <= self.high if self.closed_high else x < self.high
        return math.isfinite(x) and above and below

    def __str__(self) -> str:
        return self.text


NONNEGATIVE, FRACTION, REAL = Domain("[0, inf)"), Domain("[0, 1)"), Domain("(-inf, inf)")

# Names mean the same everywhere, so their domains are declared once, here; a step may narrow them in `domains`.
_DOMAINS = (
    (r"lr|eps\d?|.*_eps|weight_decay|.*_decay|max_.*|.*_norm|initial_.*", NONNEGATIVE),
    (r"b\d|momentum|rho", FRACTION),
    (r"dampening", Domain("[0, 1]")),
)


@cache
def domain_of(name: str) -> Domain:
    """The domain of a hyperparameter, from its name: lr and eps are non-negative, b1 and momentum lie in [0, 1)."""
    bare = name.rpartition(".")[2]
    return next((domain for pattern, domain in _DOMAINS if re.fullmatch(pattern, bare)), REAL)


def check_hyper(owner: str, name: str, value: Any, domain: Domain | None = None) -> None:
    """Raise TypeError or ValueError unless ``value`` is a schedule or a number within the domain of ``name``."""
    domain = domain or domain_of(name)
    if isinstance(value, Schedule):
        return
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex() or value.dtype is torch.bool:
            raise InvalidValueError(
                f"{owner} got {name} as a tensor of shape {tuple(value.shape)} and dtype {value.dtype}. "
                f"Expected a single real number. Pass a float or a 0-d tensor."
            )
        if value.device.type != "cpu":  # reading it back would stall the device
            return
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidTypeError(
            f"{owner} got {name}={value!r}, a {type(value).__name__}. Expected a number in {domain}, a 0-d tensor or a "
            f"schedule. Write for example {name}=0.1."
        )
    if value not in domain:
        raise InvalidValueError(
            f"{owner} got {name}={value!r}. Expected a finite number in {domain}. Choose one in that range."
        )
