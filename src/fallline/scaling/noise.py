r"""Gradient noise, from gradients of equal parts of a batch, and the batch sizes that it asks for.

With gradients :math:`g_1, \dots, g_n` of n parts of m examples each, mean g and :math:`S = \frac{1}{n-1}\sum_i \|g_i - g\|^2`,

.. math:: \mathrm{tr}\,\Sigma \approx m S, \qquad \|G\|^2 \approx \|g\|^2 - S / n

are unbiased: the variance of one example's gradient, and the squared norm of the true gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fallline.core.claims import claim
from fallline.core.errors import InvalidTypeError, InvalidValueError

__all__ = ["Parts", "cabs", "coordinate_test", "inner_product_test", "norm_test"]


@dataclass(frozen=True)
class Parts:
    """Gradients of equal parts of a batch, shape (parts, parameters), and the examples in each part."""

    gradients: Tensor
    size: int = 1

    def __post_init__(self) -> None:
        if self.gradients.dim() != 2 or len(self.gradients) < 2 or not self.gradients.isfinite().all():
            raise InvalidValueError(
                f"Parts got gradients of shape {tuple(self.gradients.shape)}. Expected (parts, parameters), at least two parts, all finite. "
                f"Use Parts.of([gradients of part 1, gradients of part 2, ...], size)."
            )
        if self.size < 1:
            raise InvalidValueError(
                f"Parts got size={self.size}. Expected the number of examples in a part, at least 1. Pass it."
            )

    @staticmethod
    def of(parts: Sequence[Mapping[str, Tensor]], size: int = 1) -> Parts:
        """From one dict of gradients for each part, such as ``oracle.value_and_grad(oracle.params, part)[1]``."""
        if not parts or not all(isinstance(part, Mapping) and part for part in parts):
            raise InvalidTypeError(
                f"Parts.of got {type(parts[0]).__name__ if parts else 'nothing'}. Expected dicts from names to gradients, one for each part. "
                f"Take oracle.value_and_grad(oracle.params, part)[1]."
            )
        return Parts(torch.stack([torch.cat([part[n].detach().flatten() for n in parts[0]]) for part in parts]), size)

    @property
    def batch(self) -> int:
        """Examples in all parts."""
        return len(self.gradients) * self.size

    @property
    def trace(self) -> float:
        """An unbiased estimate of the variance of one example's gradient, tr Sigma."""
        return self.size * float(self.gradients.var(0).sum())

    @property
    def square(self) -> float:
        """An unbiased estimate of the squared norm of the true gradient; it may be below zero where noise prevails."""
        return float(self.gradients.mean(0).square().sum()) - self.trace / self.batch

    @property
    def noise_scale(self) -> float:
        """tr Sigma / |G|^2, the batch at which noise and gradient are equal (McCandlish et al., arXiv:1812.06162, eq. 2.9).

        A ratio of two estimates is biased. Average ``trace`` and ``square`` over steps, then divide; infinite where ``square`` is not positive.
        """
        return self.trace / self.square if self.square > 0 else math.inf


def norm_test(parts: Parts, eta: float, most: int = 2**31) -> int:
    """The next batch: the current one if tr Sigma / batch <= eta^2 |g|^2, else the smallest that fulfils it.

    AdAdaGradNorm's test (Lau et al., arXiv:2402.11215), after Byrd et al. 2012; a batch never shrinks.
    """
    return _grown(parts, parts.trace / (_above_zero("eta", eta) ** 2 * _mean_square(parts)), most)


def inner_product_test(parts: Parts, theta: float, most: int = 2**31) -> int:
    """As ``norm_test``, for the variance along the gradient alone: Var(<g_i, g>) / batch <= theta^2 |g|^4 (arXiv:1710.11258)."""
    along = parts.gradients @ parts.gradients.mean(0)
    variance = parts.size * float(along.var())
    return _grown(parts, variance / _above_zero("theta", theta) ** 2 / _mean_square(parts) ** 2, most)


def coordinate_test(parts: Parts, eta: float, most: int = 2**31) -> int:
    """As ``norm_test``, for every coordinate: Var_j / batch <= eta^2 g_j^2, AdAdaGrad's test (arXiv:2402.11215).

    The coordinate with the smallest gradient decides, so a cap ``most`` is needed more often than with the norm test.
    """
    variance, mean = parts.size * parts.gradients.var(0), parts.gradients.mean(0).square()
    needed = float((variance / (_above_zero("eta", eta) ** 2 * mean)).nan_to_num(nan=0.0).max())
    return _grown(parts, needed, most)


def cabs(parts: Parts, loss: float, lr: float, least: int = 1, most: int = 2**31) -> int:
    """The batch that couples noise to rate and loss: lr tr Sigma / loss, within [least, most] (CABS; Balles et al., arXiv:1612.05086).

    The loss must have its minimum near 0. The paper averages trace and loss over steps; pass averages to steady it.
    """
    if not loss > 0 or not lr > 0:
        raise InvalidValueError(
            f"cabs got loss={loss!r} and lr={lr!r}. Expected both above 0, and a loss whose minimum is near 0. Subtract its lower bound if it is known."
        )
    return min(max(round(lr * parts.trace / loss), least), most)


def _grown(parts: Parts, needed: float, most: int) -> int:
    if most < 1:
        raise InvalidValueError(
            f"The test got most={most}. Expected a batch size, at least 1. Pass the largest that fits."
        )
    return max(min(parts.batch, most), most if needed >= most else math.ceil(needed))


def _mean_square(parts: Parts) -> float:
    return max(float(parts.gradients.mean(0).square().sum()), 1e-150)


def _above_zero(name: str, value: float) -> float:
    if not value > 0:
        raise InvalidValueError(
            f"The test got {name}={value!r}. Expected a number above 0. Write for example {name}=0.5."
        )
    return value


def _drawn(lab, parts: int, size: int, mean: float, noise: float, dim: int = 500) -> Parts:
    rng = torch.Generator().manual_seed(0)
    drawn = torch.randn(parts, size, dim, generator=rng, dtype=torch.float64)
    return Parts((mean + noise * drawn).mean(1), size)


@claim(
    "norm_test",
    "the batch grows to Var / (eta^2 |g|^2) when the test fails, and never shrinks",
    "arXiv:2402.11215, AdAdaGradNorm",
)
def grows(lab):
    gradients = torch.tensor([[1.0, 2.0], [3.0, 2.0]], dtype=torch.float64)  # mean (2, 2), variance 2 + 0
    yield lab.equal(norm_test(Parts(gradients), eta=0.25), 4)  # 2 / (1/16 * 8)
    yield lab.equal(norm_test(Parts(gradients), eta=10.0), 2)
    yield lab.equal(norm_test(Parts(gradients, size=8), eta=0.25), 32)


@claim(
    "norm_test",
    "as the gradient vanishes and the noise stays, the batch grows with 1/|g|^2",
    "arXiv:2402.11215, abstract: batch sizes increase progressively",
)
def inverse_square(lab):
    big, small = (norm_test(_drawn(lab, 256, 1, mean, 1.0), eta=0.05) for mean in (0.8, 0.4))
    yield lab.ratio(small, big, equals=4.0, rtol=0.1)


@claim(
    "inner_product_test",
    "noise orthogonal to the gradient asks for no larger batch",
    "arXiv:1710.11258, inner product test",
)
def orthogonal(lab):
    gradients = torch.tensor([[1.0, 5.0], [1.0, -5.0]], dtype=torch.float64)
    yield lab.equal(inner_product_test(Parts(gradients), theta=0.1), 2)
    yield lab.less(1000, norm_test(Parts(gradients), eta=0.1))


@claim(
    "coordinate_test",
    "every coordinate passes its own test at the batch that it returns",
    "arXiv:2402.11215, coordinate-wise variant",
)
def every_coordinate(lab):
    parts = _drawn(lab, 32, 1, 3.0, 1.0, dim=20)
    batch = coordinate_test(parts, eta=0.05)
    worst = (parts.gradients.var(0) / parts.gradients.mean(0).square()).max() / 0.05**2
    yield lab.less(float(worst), batch + 1e-9)
    yield lab.less(batch - 1, float(worst))


@claim(
    "cabs",
    "the batch is the rate times the variance over the loss: halve the loss, and it doubles",
    "arXiv:1612.05086, abstract",
)
def coupled(lab):
    parts = _drawn(lab, 64, 1, 0.0, 2.0)
    yield lab.ratio(cabs(parts, 0.5, 0.3), cabs(parts, 1.0, 0.3), equals=2.0, rtol=0.01)
    yield lab.ratio(cabs(parts, 1.0, 0.3), 0.3 * 500 * 4, equals=1.0, rtol=0.02)


@claim("noise scale", "tr Sigma and |G|^2 are unbiased, whatever the parts' size", "arXiv:1812.06162, appendix A.1")
def unbiased(lab):
    for size in (1, 8):
        parts = _drawn(lab, 256, size, 0.3, 2.0)
        yield lab.ratio(parts.trace, 500 * 4.0, equals=1.0, rtol=0.02)
        yield lab.ratio(parts.square, 500 * 0.09, equals=1.0, rtol=0.1)
