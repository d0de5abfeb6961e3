r"""Noise scales: the batch size up to which larger batches pay, from gradients at two batch sizes or from curvature.

.. math::
    B_\text{simple} = \frac{\mathrm{tr}\,\Sigma}{|G|^2}, \qquad
    B_\text{noise} = \frac{\mathrm{tr}(H \Sigma)}{G^T H G}

(McCandlish et al., arXiv:1812.06162, section 2.2 and appendix A.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.stats import t as student
from torch import Tensor

from fallline.core.errors import InvalidValueError
from fallline.core.oracle import Batch, Oracle
from fallline.core.types import Params
from fallline.curvature.batches import deterministic, own_params
from fallline.curvature.noise import ratio, take, total
from fallline.curvature.operator import Operator

__all__ = ["NoiseScale", "critical_batch_size", "noise_scale", "two_batch_noise_scale"]


@dataclass(frozen=True)
class NoiseScale:
    r"""An estimate of :math:`\mathrm{tr}\,\Sigma / |G|^2` with its jackknife error; both parts are unbiased, their ratio nearly."""

    value: float
    error: float
    trace: float
    square_norm: float
    num_rounds: int

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Student's interval on the jackknife error."""
        half = float(student.ppf((1 + level) / 2, max(self.num_rounds - 1, 1))) * self.error
        return max(self.value - half, 0.0), self.value + half


def two_batch_noise_scale(
    small: Sequence[float] | Tensor, big: Sequence[float] | Tensor, small_size: int, big_size: int
) -> NoiseScale:
    r"""The noise scale from squared norms of gradients at two batch sizes, as data-parallel training has them at no cost.

    .. math::
        |G|^2 \approx \frac{B |G_B|^2 - b |G_b|^2}{B - b}, \qquad
        \mathrm{tr}\,\Sigma \approx \frac{|G_b|^2 - |G_B|^2}{1/b - 1/B}

    Each is unbiased, and averaged over rounds before they are divided (McCandlish et al., arXiv:1812.06162, appendix A.1).

    Args:
        small: :math:`|G_b|^2` of every round, or the mean of those of several small batches, shape (rounds,).
        big: :math:`|G_B|^2` of every round.
    """
    few, many = (torch.as_tensor(x, dtype=torch.float64).flatten() for x in (small, big))
    if len(few) != len(many) or len(few) < 2:
        raise InvalidValueError(
            f"two_batch_noise_scale() got {len(few)} and {len(many)} squared norms. Expected one of each for every round, and at least "
            f"two rounds. Average those of several small batches first."
        )
    if not 0 < small_size < big_size:
        raise InvalidValueError(
            f"two_batch_noise_scale() got batches of {small_size} and {big_size}. Expected the first to be smaller. Swap them."
        )
    square = (big_size * many - small_size * few) / (big_size - small_size)
    trace = (few - many) / (1 / small_size - 1 / big_size)
    n = len(few)
    value = ratio(float(trace.mean()), float(square.mean()))
    left_out = (trace.sum() - trace) / (square.sum() - square)
    error = (
        float(((n - 1) / n * (left_out - left_out.mean()).square().sum()).sqrt()) if math.isfinite(value) else math.inf
    )
    return NoiseScale(value, error, float(trace.mean()), float(square.mean()), n)


def noise_scale(
    oracle: Oracle,
    batch: Batch,
    params: Params | None = None,
    *,
    small_size: int = 8,
    big_size: int = 128,
    num_rounds: int = 10,
    seed: int = 0,
) -> NoiseScale:
    """The two-batch estimate by itself: in every round, a big batch is drawn from the examples and cut into small ones.

    All small batches of a big one are used. ``gradient_statistics`` sees every example once and is more exact where its gradients of
    single examples are affordable; this one takes gradients of batches only. Rounds share the examples, so the interval is about these
    examples, not about their source.
    """
    count = oracle.num_examples(batch)
    if big_size > count or big_size % small_size or small_size == big_size:
        raise InvalidValueError(
            f"noise_scale() got batches of {small_size} and {big_size} from {count} examples. Expected the larger to be a multiple of the "
            f"smaller, and no more than there are. Choose for example small_size={max(count // 16, 1)}, big_size={max(count // 16, 1) * 8}."
        )
    point = own_params(oracle, params)
    random = torch.Generator().manual_seed(seed)
    few, many = [], []
    with deterministic(oracle.module):
        for _ in range(num_rounds):
            drawn = torch.randperm(count, generator=random)[:big_size]
            pieces = [_square_and_sum(oracle, point, take(batch, i)) for i in drawn.split(small_size)]
            few.append(sum(square for square, _ in pieces) / len(pieces))
            mean = {name: torch.stack([g[name] for _, g in pieces]).mean(0) for name in point}
            many.append(total(mean, square=True))
    return two_batch_noise_scale(few, many, small_size, big_size)


def critical_batch_size(hessian: Operator, gradients: Operator, *, num_probes: int = 20, seed: int = 0) -> NoiseScale:
    r"""The noise scale with curvature, :math:`B_\text{noise} = \mathrm{tr}(H \Sigma) / (G^T H G)`: the batch size at which a step's
    progress is half of what it could be (McCandlish et al., arXiv:1812.06162, eq. 2.8).

    With signs a, :math:`v = \frac{1}{\sqrt{N - 1}} \sum_i a_i (g_i - G)` has :math:`\mathbb{E}[v v^T] = \Sigma`; the mean of
    :math:`v^T H v` is the numerator. The noise of the denominator, as large as ``trace / N``, is taken off.

    Args:
        hessian: any curvature on the parameters.
        gradients: ``example_gradients(oracle, data)``.
    """
    n = gradients.shape[0]
    if n < 2 or num_probes < 2:
        raise InvalidValueError(
            f"critical_batch_size() got {n} examples and {num_probes} probes. Expected at least two of each, to see how they differ. "
            f"Pass more."
        )
    turned = gradients.T
    dtype, device = gradients.domain.dtype, gradients.domain.device
    g = turned.rows(torch.full((1, n), 1 / n, dtype=dtype, device=device))
    random = torch.Generator().manual_seed(seed)
    signs = (torch.randint(0, 2, (num_probes, n), generator=random) * 2 - 1).to(device, dtype)
    seen = []
    for a in signs:
        v = turned.rows((a - a.mean())[None] / math.sqrt(n - 1))
        seen.append(float((v * hessian.rows(v)).sum()))
    each = torch.tensor(seen, dtype=torch.float64)
    trace = float(each.mean())
    along = float((g * hessian.rows(g)).sum()) - trace / n
    value = ratio(trace, along)
    return NoiseScale(value, abs(float(each.std()) / math.sqrt(num_probes) / along), trace, along, num_probes)


def _square_and_sum(oracle: Oracle, point: Params, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    found = oracle.value_and_grad(point, batch)[1]
    return total(found, square=True), found
