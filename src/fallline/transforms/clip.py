"""Clipping: by value, of the largest elements, by the norm or root mean square of a tensor, by the norm of all, or relative to a tensor's units."""

from __future__ import annotations

import torch
from torch import Tensor

from fallline.core.errors import InvalidValueError
from fallline.core.hyper import Domain
from fallline.core.transform import Transform, transform
from fallline.core.types import At, Hyper, Reach, State

__all__ = [
    "ClipByGlobalNorm",
    "ClipByNorm",
    "ClipByQuantile",
    "ClipByRms",
    "ClipByUnitNorm",
    "ClipByValue",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_quantile",
    "clip_by_rms",
    "clip_by_unit_norm",
    "clip_by_value",
    "rms",
    "within_rms",
]


@transform
class ClipByGlobalNorm(Transform):
    """u <- u min(1, max_norm / ||u||), the norm taken over all tensors that run this chain"""

    max_norm: Hyper
    reach = Reach.GROUP

    def measure(self, u: Tensor, at: At) -> Tensor:
        return u.square().sum()

    def update(self, u: Tensor, at: At) -> tuple[Tensor, State]:
        assert at.total is not None
        # 1e-6 as in torch.nn.utils.clip_grad_norm_: it keeps a zero gradient zero
        return u * (self.max_norm / (at.total.sqrt() + 1e-6)).clamp(max=1.0), {}


@transform
class ClipByNorm(Transform):
    """u <- u min(1, max_norm / ||u||), per tensor"""

    max_norm: Hyper
    reach = Reach.TENSOR

    def update(self, u: Tensor, at: At) -> tuple[Tensor, State]:
        return u * (self.max_norm / (u.norm() + 1e-6)).clamp(max=1.0), {}


@transform
class ClipByQuantile(Transform):
    """u <- clip(u, -c, c), per tensor, c the size of the largest element that is not clipped; the share ``fraction`` is"""

    fraction: float = 0.1
    reach = Reach.MATRIX  # how many elements that is belongs to a shape

    def update(self, u: Tensor, at: At) -> tuple[Tensor, State]:
        count = int(self.fraction * u.numel())
        if count == 0:
            return u, {}
        limit = u.abs().flatten().topk(count + 1).values[-1]
        return torch.maximum(torch.minimum(u, limit), -limit), {}


@transform
class ClipByUnitNorm(Transform):
    """u_i <- u_i min(1, clipping max(||p_i||, eps) / ||u_i||), i a row of a matrix, a filter, or a whole vector"""

    clipping: Hyper = 0.01
    eps: Hyper = 1e-3
    reach = Reach.MATRIX

    def update(self, u: Tensor, at: At) -> tuple[Tensor, State]:
        limit = self.clipping * unit_norm(at.p).clamp(min=self.eps)
        length = unit_norm(u)
        return torch.where(length > limit, u * (limit / length), u), {}


@transform
class ClipByRms(Transform):
    """u <- u / max(1, RMS(u) / max_rms), per tensor"""

    max_rms: Hyper
    reach = Reach.TENSOR
    domains = {"max_rms": Domain("(0, inf)")}

    def update(self, u: Tensor, at: At) -> tuple[Tensor, State]:
        return within_rms(u, self.max_rms), {}


@transform
class ClipByValue(Transform):
    """u <- clip(u, -max_value, max_value), element by element"""

    max_value: Hyper

    def update(self, u: Tensor, at: At) -> tuple[Tensor, State]:
        return u.clamp(-self.max_value, self.max_value), {}


def clip_by_global_norm(max_norm: Hyper) -> ClipByGlobalNorm:
    r"""Scale the update so that its norm over all tensors is at most ``max_norm`` (Pascanu et al., arXiv:1211.5063, alg. 1)."""
    return ClipByGlobalNorm(max_norm)


def clip_by_norm(max_norm: Hyper) -> ClipByNorm:
    r"""Scale each tensor's update so that its norm is at most ``max_norm``."""
    return ClipByNorm(max_norm)


def clip_by_quantile(fraction: float = 0.1) -> ClipByQuantile:
    r"""Coordinate-wise clipping: the largest elements of each tensor, a share ``fraction`` of all, are clipped to the size of the
    largest of the others (Pan & Li, arXiv:2306.00204, coordinate-wise clipping).

    Raises ValueError unless the share lies in [0, 1)."""
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction < 1:
        raise InvalidValueError(
            f"clip_by_quantile() got fraction={fraction!r}. Expected a share of the elements in [0, 1). Write for example "
            f"clip_by_quantile(0.1)."
        )
    return ClipByQuantile(fraction)


def clip_by_unit_norm(clipping: Hyper = 0.01, eps: Hyper = 1e-3) -> ClipByUnitNorm:
    r"""Adaptive gradient clipping: no unit's update is longer than ``clipping`` times the unit,
    :math:`u_i \leftarrow u_i \min(1, \lambda \max(\|p_i\|, \epsilon) / \|u_i\|)` (Brock et al., arXiv:2102.06171, eq. 3). Units are
    the rows of a matrix and the filters of a convolution; a vector counts as one. The paper leaves the last layer out:
    give it its own rule in ``groups``."""
    return ClipByUnitNorm(clipping, eps)


def clip_by_value(max_value: Hyper) -> ClipByValue:
    r"""Clip every element of the update to :math:`[-\mathrm{max\_value}, \mathrm{max\_value}]`."""
    return ClipByValue(max_value)


def clip_by_rms(max_rms: Hyper) -> ClipByRms:
    r"""Scale each tensor's update so that its root mean square is at most ``max_rms`` (Shazeer & Stern, arXiv:1804.04235, sec. 6)."""
    return ClipByRms(max_rms)


def unit_norm(x: Tensor) -> Tensor:
    """Norms over all dimensions but the first; of a vector or a number, its norm."""
    return x.square().sum(tuple(range(1, x.dim())), keepdim=True).sqrt() if x.dim() > 1 else x.norm()


def within_rms(x: Tensor, max_rms: Hyper) -> Tensor:
    """x / max(1, RMS(x) / max_rms)"""
    return x / (rms(x) / max_rms).clamp(min=1.0)


def rms(x: Tensor) -> Tensor:
    """The root mean square of all entries."""
    return x.square().mean().sqrt()
