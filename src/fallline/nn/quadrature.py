"""Means of a function of a normal variable, to rounding: what activations do to the variance of a signal."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from fallline.core.claims import claim
from fallline.nn.check import demand

__all__ = ["Activation", "derivative", "gaussian_mean", "variance_gain"]

Activation: TypeAlias = Callable[[Tensor], Tensor]
"""A function of each element, as ``torch.tanh`` or ``torch.nn.functional.gelu``."""

_END, _NODES = 12, 32  # exp(-72) is below rounding


@cache
def _rule() -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes on unit panels of [-12, 12], and their weights times the normal density."""
    x, w = np.polynomial.legendre.leggauss(_NODES)
    left = np.arange(-_END, _END)[:, None]
    z = (left + (x + 1) / 2).ravel()
    weight = np.tile(w / 2, 2 * _END) * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return torch.from_numpy(z), torch.from_numpy(weight)


def gaussian_mean(fn: Activation, variance: float = 1.0) -> float:
    r"""The mean :math:`E f(h)` of ``fn`` at a normal :math:`h \sim N(0, \mathrm{variance})`.

    Gauss-Legendre on panels of one standard deviation that meet at 0: exact to rounding for functions that are smooth apart from a
    kink at 0 (ReLU and its kin). A kink elsewhere costs accuracy (about 1e-5).

    >>> round(gaussian_mean(torch.relu), 6)  # 1 / sqrt(2 pi)
    0.398942
    """
    demand(
        isinstance(variance, int | float) and 0 <= variance < float("inf"),
        f"gaussian_mean() got variance={variance!r}",
        "Expected a finite number of at least 0",
        "Pass for example variance=1.0",
    )
    z, weight = _rule()
    return float((weight * fn(variance**0.5 * z)).sum())


def derivative(fn: Activation, h: Tensor) -> Tensor:
    """The derivative of an activation at every element of ``h``, by autograd."""
    with torch.enable_grad():
        h = h.detach().requires_grad_()
        return torch.autograd.grad(fn(h).sum(), h)[0]


def variance_gain(fn: Activation) -> float:
    r"""The factor :math:`\gamma = \mathrm{Var}[f(z)]^{-1/2}`, :math:`z \sim N(0, 1)`, that gives an activation's output variance 1.

    For ReLU :math:`\sqrt{2 / (1 - 1/\pi)}` (Brock et al., arXiv:2101.08692).
    """
    mean = gaussian_mean(fn)
    return gaussian_mean(lambda h: (fn(h) - mean).square()) ** -0.5


@claim(
    "variance_gain",
    "ReLU needs the gain sqrt(2 / (1 - 1/pi))",
    where="arXiv:2101.08692, on scaled weight standardisation",
)
def gain_of_relu(lab):
    yield lab.equal(variance_gain(torch.relu), (2 / (1 - 1 / torch.pi)) ** 0.5)
    yield lab.equal(variance_gain(lambda h: 3 * h), 1 / 3)
