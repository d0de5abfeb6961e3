r"""Gradient noise: how the gradients of examples differ, by coordinate, by tensor and all together.

.. math:: \bar g = \frac{1}{N} \sum_i g_i, \qquad \Sigma = \frac{1}{N - 1} \sum_i (g_i - \bar g)(g_i - \bar g)^T
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.utils._pytree import tree_map

from fallline.core.errors import InvalidValueError
from fallline.core.oracle import Batch, Oracle
from fallline.core.types import Params
from fallline.curvature.batches import Data, deterministic, own_params, weighted

__all__ = [
    "GradientStatistics", "covariance_spectrum", "gradient_statistics", "per_example_gradients", "ratio", "tail_index", "take",
    "total",
]  # fmt: skip


@dataclass(frozen=True)
class GradientStatistics:
    """The mean of the examples' gradients, and the variance of every coordinate (over N - 1), by name."""

    mean: dict[str, Tensor]
    variance: dict[str, Tensor]
    num_examples: int

    @property
    def trace(self) -> float:
        r""":math:`\mathrm{tr}\,\Sigma`, unbiased."""
        return total(self.variance)

    @property
    def square_norm(self) -> float:
        r""":math:`|G|^2` of the data's source, unbiased: :math:`|\bar g|^2 - \mathrm{tr}\,\Sigma / N`. Noise may take it below zero."""
        return total(self.mean, square=True) - self.trace / self.num_examples

    @property
    def noise_scale(self) -> float:
        r""":math:`B_\text{simple} = \mathrm{tr}\,\Sigma / |G|^2`; infinite where the examples do not tell G from zero."""
        return ratio(self.trace, self.square_norm)

    @property
    def m_coherence(self) -> float:
        r""":math:`N\, |\bar g|^2 / \overline{|g_i|^2}`: how many of the N examples a step along the gradient of one helps on average; N if
        all agree, 1 if they are orthogonal (Chatterjee & Zielinski, arXiv:2008.01217)."""
        mean, n = total(self.mean, square=True), self.num_examples
        return ratio(n * mean, mean + self.trace * (n - 1) / n)

    def signal_to_noise(self) -> dict[str, Tensor]:
        r""":math:`|\bar g_j| / \sqrt{\Sigma_{jj}}` for every coordinate; infinite without noise, zero without a gradient."""
        zero = {name: m == 0 for name, m in self.mean.items()}
        ratios = {name: m.abs() / self.variance[name].sqrt() for name, m in self.mean.items()}
        return {name: torch.where(zero[name], 0.0, r) for name, r in ratios.items()}

    def by_tensor(self) -> dict[str, float]:
        """The noise scale of every tensor by itself."""
        found = {}
        for name, v in self.variance.items():
            trace = float(v.double().sum())
            found[name] = ratio(trace, float(self.mean[name].double().square().sum()) - trace / self.num_examples)
        return found


def per_example_gradients(oracle: Oracle, batch: Batch, params: Params | None = None) -> dict[str, Tensor]:
    """The gradient of every example's loss, shape (examples, *parameter), the model in evaluation mode."""
    point = own_params(oracle, params)

    def loss(at: Params, example: Batch) -> Tensor:
        return oracle.loss(at, tree_map(lambda x: x.unsqueeze(0) if isinstance(x, Tensor) else x, example))

    dims = tree_map(lambda x: 0 if isinstance(x, Tensor) else None, batch)
    with deterministic(oracle.module):
        return vmap(grad(loss), in_dims=(None, dims))(point, batch)


def gradient_statistics(
    oracle: Oracle, data: Data, params: Params | None = None, *, chunk: int = 32
) -> GradientStatistics:
    """Mean and variance of the examples' gradients over all data; ``chunk`` examples' gradients are held at a time."""
    point = own_params(oracle, params)
    mean = {name: torch.zeros_like(p) for name, p in point.items()}
    spread = {name: torch.zeros_like(p) for name, p in point.items()}
    seen = 0
    for _, batch in weighted(oracle, data):
        for part in _chunks(oracle, batch, chunk):
            found = per_example_gradients(oracle, part, point)
            count = len(next(iter(found.values())))
            for name, g in found.items():  # Chan, Golub & LeVeque 1979
                delta = g.mean(0) - mean[name]
                spread[name] += (g - g.mean(0)).square().sum(0) + delta.square() * (seen * count / (seen + count))
                mean[name] += delta * (count / (seen + count))
            seen += count
    if seen < 2:
        raise InvalidValueError(
            f"gradient_statistics() got {seen} example. Expected at least two, to see how they differ. Pass more data."
        )
    return GradientStatistics(mean, {name: s / (seen - 1) for name, s in spread.items()}, seen)


def covariance_spectrum(oracle: Oracle, data: Data, params: Params | None = None, *, chunk: int = 32) -> Tensor:
    r"""All N - 1 nonzero eigenvalues of :math:`\Sigma`, ascending, from the Gram matrix of the centred gradients.

    All gradients are held: N times the parameters. ``eigsh(gradient_covariance(...), k)`` holds none and finds the largest."""
    parts = [
        torch.cat([g.flatten(1) for g in per_example_gradients(oracle, part, params).values()], 1)
        for _, batch in weighted(oracle, data)
        for part in _chunks(oracle, batch, chunk)
    ]
    g = torch.cat(parts)
    g = g - g.mean(0)
    return torch.linalg.eigvalsh((g @ g.T).double())[1:].clamp(min=0) / max(len(g) - 1, 1)


def tail_index(samples: Tensor) -> float:
    r"""The tail index :math:`\alpha` of centred samples under an alpha-stable law: 2 for normal ones, 1 for Cauchy's.

    .. math::
        \frac{1}{\hat\alpha} = \frac{1}{\log m} \Big( \overline{\log |Y|} - \overline{\log |X|} \Big),
        \qquad Y = \text{sums of } m \text{ samples}

    (Mohammadi, Mohammadpour & Ogata 2015; for gradients Simsekli et al., arXiv:1901.06053). It tells a stable law's index, not whether the
    law is stable.

    Args:
        samples: shape (n,), or (n, coordinates), where the estimate is the mean over coordinates of 1 / alpha.
    """
    n = len(samples)
    if n < 16:
        raise InvalidValueError(
            f"tail_index() got {n} samples. Expected at least 16; hundreds tell something. Pass more."
        )
    x = samples.double().reshape(n, -1)
    m = int(n**0.5)
    x = x[: n // m * m]
    y = x.reshape(-1, m, x.shape[1]).sum(1)
    tiny = torch.finfo(torch.float64).tiny
    up, down = (z.abs().clamp(min=tiny).log().mean() for z in (y, x))
    return float(math.log(m) / (up - down))


def _chunks(oracle: Oracle, batch: Batch, size: int) -> list[Batch]:
    return [take(batch, i) for i in torch.arange(oracle.num_examples(batch)).split(size)]


def take(batch: Batch, indices: Tensor) -> Batch:
    """The examples of these places."""
    return tree_map(lambda x: x[indices.to(x.device)] if isinstance(x, Tensor) else x, batch)


def total(tensors: Mapping[str, Tensor], square: bool = False) -> float:
    """The sum of all entries, or of their squares, in float64."""
    return sum(float((x.double().square() if square else x.double()).sum()) for x in tensors.values())


def ratio(above: float, below: float) -> float:
    """A quotient that is infinite where what is divided by is not above zero."""
    return above / below if below > 0 else math.inf
