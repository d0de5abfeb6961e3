r"""Mean-field theory of wide networks at initialisation: how variances and gradients go from layer to layer, and where neither dies.

With weights of variance :math:`\sigma_w^2 / \mathrm{fan\_in}` and biases of variance :math:`\sigma_b^2`, pre-activations of a wide
layer are normal with variance q, and (Poole et al., arXiv:1606.05340; Schoenholz et al., arXiv:1611.01232)

.. math:: q \mapsto \sigma_w^2 \, E\, \phi(\sqrt q z)^2 + \sigma_b^2, \qquad \chi = \sigma_w^2 \, E\, \phi'(\sqrt{q^*} z)^2,

where :math:`\chi` is the factor by which the mean squared gradient grows with each layer: 1 on the critical line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.optimize import brentq

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.nn.check import demand
from fallline.nn.quadrature import Activation, derivative, gaussian_mean

__all__ = ["Critical", "critical", "critical_at", "depth_scale", "fixed_point", "slope", "variance_map"]

_LEAST, _MOST = 1e-9, 1e9


@dataclass(frozen=True)
class Critical:
    """A point of the critical line: variances of weights (times fan-in) and biases, and the variance of pre-activations they keep."""

    weight_variance: float
    bias_variance: float
    q: float


def variance_map(activation: Activation, q: float, weight_variance: float, bias_variance: float = 0.0) -> float:
    r"""The variance of the next layer's pre-activations, :math:`\sigma_w^2 E \phi(\sqrt q z)^2 + \sigma_b^2`."""
    return weight_variance * gaussian_mean(lambda h: activation(h).square(), q) + bias_variance


def slope(activation: Activation, q: float, weight_variance: float) -> float:
    r""":math:`\chi = \sigma_w^2 E \phi'(\sqrt q z)^2`: below 1 gradients vanish with depth, above 1 they explode."""
    return weight_variance * gaussian_mean(lambda h: derivative(activation, h).square(), q)


def fixed_point(activation: Activation, weight_variance: float, bias_variance: float = 0.0) -> float:
    """The variance q* that a deep network's pre-activations come to, from 1: the root of ``variance_map(q) = q``, maybe 0.

    Raises ValueError if the variance grows without bound.
    """

    def gain(q: float) -> float:
        return variance_map(activation, q, weight_variance, bias_variance) - q

    if abs(gain(1.0)) < 1e-12:
        return 1.0
    low, high = max(bias_variance, _LEAST), max(1.0, 2 * bias_variance)
    while gain(high) > 0:
        high *= 2
        if high > _MOST:
            raise InvalidValueError(
                f"With weight_variance={weight_variance} and bias_variance={bias_variance} the variance grows without bound. "
                f"Expected a pair with a fixed point. Take a smaller weight_variance, for ReLU below 2."
            )
    if gain(low) <= 0:
        return bias_variance if bias_variance > 0 else 0.0
    return float(brentq(gain, low, high, xtol=1e-15, rtol=1e-14))


def critical(activation: Activation, q: float = 1.0) -> Critical:
    r"""The variances of weights and biases that keep pre-activations at variance ``q`` and gradients at their size.

    Both conditions are linear in them, so that :math:`\sigma_w^2 = 1 / E \phi'(\sqrt q z)^2` and
    :math:`\sigma_b^2 = q - \sigma_w^2 E \phi(\sqrt q z)^2`. ReLU has (2, 0) for every q (He et al., arXiv:1502.01852); tanh
    has a curve, from (1, 0) at q = 0. Raises ValueError where that needs a negative variance.

    >>> critical(torch.relu).weight_variance
    2.0
    """
    demand(
        isinstance(q, int | float) and 0 < q < math.inf,
        f"critical() got q={q!r}",
        "Expected the variance of pre-activations, a finite positive number",
        "Pass for example q=0.025",
    )
    weight = 1 / slope(activation, q, 1.0)
    bias = q - variance_map(activation, q, weight)
    demand(
        bias > -1e-9 * q,
        f"At q={q} this activation would need biases of variance {bias:.3g}",
        "Expected an activation with a critical point there",
        "Take the mean off: critical(lambda h: f(h) - gaussian_mean(f, q), q)",
    )
    tiny = 1e-12 * q  # the difference of two equal numbers
    return Critical(_clean(weight), 0.0 if abs(bias) < tiny else bias, q)


def critical_at(activation: Activation, weight_variance: float) -> Critical:
    """The point of the critical line with this variance of weights, found between q = 1e-9 and 1e4.

    For tanh 1.05 gives biases of variance 2e-5. Raises ValueError if the line does not reach it.
    """

    def excess(log_q: float) -> float:
        return 1 / slope(activation, math.exp(log_q), 1.0) - weight_variance

    low, high = math.log(_LEAST), math.log(1e4)
    ends = 1 / slope(activation, _LEAST, 1.0), 1 / slope(activation, 1e4, 1.0)
    demand(
        min(ends) < weight_variance < max(ends),
        f"critical_at() got weight_variance={weight_variance!r}",
        f"Expected a number between {min(ends):.4g} and {max(ends):.4g}, the ends of this activation's critical line",
        "Take one in between, or critical(activation, q) if the line is a point",
    )
    return critical(activation, math.exp(float(brentq(excess, low, high, xtol=1e-13))))


def depth_scale(activation: Activation, weight_variance: float, bias_variance: float = 0.0) -> float:
    r"""Layers over which a difference between inputs, and the gradient, shrinks by e: :math:`\xi = -1 / \log \chi` (arXiv:1611.01232).

    Infinite on the critical line; in the chaotic phase (:math:`\chi > 1`) gradients grow and the number is negative.
    """
    chi = slope(activation, fixed_point(activation, weight_variance, bias_variance), weight_variance)
    return math.inf if abs(chi - 1) < 1e-12 else -1 / math.log(chi)


def _clean(x: float) -> float:
    """Rounding to 13 digits takes the last bits of the quadrature's sum away."""
    return float(f"{x:.13g}")


@claim("critical", "ReLU is critical at weight variance 2 without bias, whatever q", where="arXiv:1502.01852, eq. 10")
def relu_is_a_point(lab):
    for q in (0.1, 1.0, 7.0):
        point = critical(torch.relu, q)
        yield lab.equal(point.weight_variance, 2.0)
        yield lab.close(point.bias_variance + 1, 1.0)


@claim("critical", "at a critical point q is a fixed point and chi is 1", where="arXiv:1611.01232")
def both_conditions(lab):
    for q in (0.03, 0.5, 2.0):
        point = critical(torch.tanh, q)
        yield lab.close(variance_map(torch.tanh, q, point.weight_variance, point.bias_variance), q)
        yield lab.close(fixed_point(torch.tanh, point.weight_variance, point.bias_variance), q, rtol=1e-6)
        yield lab.close(slope(torch.tanh, q, point.weight_variance), 1.0)


@claim(
    "critical",
    "small-q tanh: weights 1 + 2q, biases of order q^3",
    where="Taylor expansion of arXiv:1611.01232",
)
def small_q(lab):
    for q in (1e-3, 2e-3):  # E tanh^2 = q - 2q^2 + 17/3 q^3, E sech^4 = 1 - 2q + 7q^2, hence bias = 4/3 q^3
        point = critical(torch.tanh, q)
        yield lab.close(point.weight_variance, 1 + 2 * q - 3 * q**2, rtol=50 * q**3)
        yield lab.close(point.bias_variance, 4 / 3 * q**3, rtol=30 * q)


@claim("variance_map", "for erf both maps have closed forms", where="arXiv:1606.05340; Williams 1997")
def erf_closed_form(lab):
    for q in (0.2, 1.0, 3.0):
        yield lab.close(variance_map(torch.erf, q, 1.5, 0.1), 1.5 * 2 / math.pi * math.asin(2 * q / (1 + 2 * q)) + 0.1)
        yield lab.close(slope(torch.erf, q, 1.5), 1.5 * 4 / math.pi / math.sqrt(1 + 4 * q))
