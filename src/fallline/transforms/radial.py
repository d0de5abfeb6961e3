"""Projection of an update onto the tangent space of scale-invariant weights, for AdamP and SGDP."""

from __future__ import annotations

import torch
from torch import Tensor

from fallline.core.transform import Transform, transform
from fallline.core.types import At, Hyper, Reach, State

__all__ = ["ProjectRadial", "project_radial"]


@transform
class ProjectRadial(Transform):
    """u <- u less its part along p where p looks scale-invariant, rows first, then the whole tensor; plus weight decay"""

    weight_decay: Hyper = 0.0
    delta: Hyper = 0.1
    wd_ratio: Hyper = 0.1
    eps: Hyper = 1e-8
    reach = Reach.MATRIX

    def update(self, u: Tensor, at: At) -> tuple[Tensor, State]:
        if at.p.dim() < 2 or at.p.numel() == 0:
            return u + self.weight_decay * at.p, {}
        rows, by_row = self._tangent(u, at, at.p.shape[0])
        whole, by_whole = self._tangent(u, at, 1)
        u = torch.where(rows, by_row, torch.where(whole, by_whole, u))
        return u + self.weight_decay * torch.where(rows | whole, self.wd_ratio * at.p, at.p), {}

    def _tangent(self, u: Tensor, at: At, num_rows: int) -> tuple[Tensor, Tensor]:
        """Whether the gradient is orthogonal to p row by row, and the update without its radial part."""
        p, g, v = (x.reshape(num_rows, -1) for x in (at.p, at.g, u))
        length = p.norm(dim=1, keepdim=True) + self.eps
        cosine = (p * g).sum(1, keepdim=True) / length / (g.norm(dim=1, keepdim=True) + self.eps)
        orthogonal = cosine.abs().amax() < self.delta / p.shape[1] ** 0.5
        direction = p / length
        return orthogonal, (v - direction * (direction * v).sum(1, keepdim=True)).reshape(u.shape)


def project_radial(weight_decay: Hyper, delta: Hyper = 0.1, wd_ratio: Hyper = 0.1, eps: Hyper = 1e-8) -> ProjectRadial:
    r"""Take off the radial part of the update, :math:`u \leftarrow u - \hat p\,(\hat p \cdot u)`, where
    :math:`|\cos(p, g)| < \delta / \sqrt{\dim p}`: there weights are scale-invariant and growing their norm only slows training;
    weight decay is multiplied by ``wd_ratio`` there (Heo et al., arXiv:2006.08217, algorithms 1 and 2)."""
    return ProjectRadial(weight_decay, delta, wd_ratio, eps)
