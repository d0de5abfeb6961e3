"""Clipping: by value, by the root mean square of a tensor, or by the norm over all tensors."""

from __future__ import annotations

from torch import Tensor

from fallline.core.hyper import Domain
from fallline.core.transform import Transform, transform
from fallline.core.types import At, Hyper, Reach, State

__all__ = [
    "ClipByGlobalNorm",
    "ClipByRms",
    "ClipByValue",
    "clip_by_global_norm",
    "clip_by_rms",
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


def clip_by_value(max_value: Hyper) -> ClipByValue:
    r"""Clip every element of the update to :math:`[-\mathrm{max\_value}, \mathrm{max\_value}]`."""
    return ClipByValue(max_value)


def clip_by_rms(max_rms: Hyper) -> ClipByRms:
    r"""Scale each tensor's update so that its root mean square is at most ``max_rms`` (Shazeer & Stern, arXiv:1804.04235, sec. 6)."""
    return ClipByRms(max_rms)


def within_rms(x: Tensor, max_rms: Hyper) -> Tensor:
    """x / max(1, RMS(x) / max_rms)"""
    return x / (rms(x) / max_rms).clamp(min=1.0)


def rms(x: Tensor) -> Tensor:
    """The root mean square of all entries."""
    return x.square().mean().sqrt()
