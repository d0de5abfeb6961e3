r"""PSGD: a Kronecker-factored preconditioner that is itself trained, by products alone, until preconditioned gradients are white.

.. math::
    x_t = g_t / r_t, \qquad w = P_L\, x_t\, P_R, \qquad E_L = \tfrac1n (w w^\top + D_L) - I, \\
    Q_L \leftarrow \Bigl(I - \frac{\rho}{2 \ell} E_L\Bigr) Q_L \Bigl(I - \frac{\rho}{2 \ell} E_L\Bigr), \qquad P_L = Q_L^2, \\
    u_t = P_L\, \frac{\hat m_t}{r_t}\, P_R + \lambda p, \qquad p \leftarrow p - \mathrm{lr}\, u_t

for an m by n matrix; :math:`P_R` likewise, :math:`r_t` a running size of gradients, :math:`\ell` about :math:`\|E\| + 2`, :math:`D` what noise of size
:math:`\epsilon` would add, so that directions without gradient stay bounded. Where E vanishes, :math:`\mathrm{E}[P g g^\top P] = I`: then
:math:`P = \mathrm{E}[g g^\top]^{-1/2}`. Vectors have a diagonal P. Steps are cut to a root mean square of 1.1.
"""

from __future__ import annotations

from typing import Literal

import torch

from fallline.core.hyper import Domain
from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, scalars, transform, zeros
from fallline.core.types import At, Hyper, Reach
from fallline.transforms import clip_by_rms, decay, descend
from fallline.transforms.average import whole
from fallline.transforms.kronecker import grid_of, packed, unpacked


def _identities(step, p):
    grid = grid_of(tuple(p.shape), step.block, step.sides)
    if grid is None:
        return torch.ones_like(p)
    eyes = [torch.eye(grid.sizes[axis], dtype=p.dtype, device=p.device) for axis in grid.axes]
    return packed([eye.expand(grid.num_blocks, *eye.shape) for eye in eyes])


def _norm(a):
    """A lower bound of a symmetric matrix' largest eigenvalue that is seldom far from it: one step of power iteration."""
    row = a.diagonal(dim1=-2, dim2=-1).abs().argmax(-1)[..., None, None]
    x = a.gather(-2, row.expand(*row.shape[:-1], a.shape[-1]))
    return (x @ a).norm(dim=(-2, -1), keepdim=True) / (x.norm(dim=(-2, -1), keepdim=True) + torch.finfo(a.dtype).tiny)


@transform
class ScaleByPsgd(Transform):
    b1: Hyper = 0.9
    rho: Hyper = 0.1
    eps: Hyper = 1e-4
    every: int = 1
    block: int = 1024
    sides: str = "both"
    reach = Reach.MATRIX
    compiles = False
    domains = {"eps": Domain("(0, 1]")}
    slots = {**zeros("m"), **scalars("size"), "q": _identities}

    def update(self, u, at, *, m, size, q):
        if u.numel() == 0:
            return u, {}
        m = m.lerp(u, 1 - self.b1)
        largest = u.abs().amax()
        seen = largest > 0  # a gradient of zero says nothing about gradients
        rms = (u / torch.where(seen, largest, 1.0)).square().mean().sqrt() * largest
        size = torch.where(seen, torch.maximum(rms, 0.99 * size), size)
        per = 1 / torch.where(size > 0, size, 1.0)
        x, m_hat = u * per, m * per / (1 - self.b1**at.t)
        grid = grid_of(tuple(u.shape), self.block, self.sides)
        due = seen * ((at.t - 1) % self.every == 0)
        if grid is None:
            p = q * q
            w = p * p * (x * x + self.eps**2)
            q = q * (1 - due * self.rho * (w - 1) / (w.amax() + 1))
            return q * q * m_hat, {"m": m, "size": size, "q": q}
        old = unpacked(q, grid)
        p = [f @ f for f in old]
        white = grid.times(grid.cut(grid.pad(x)), p)
        noise = [f.square().sum((-2, -1), keepdim=True) / f.shape[-1] for f in p]  # the mean eigenvalue of p^2
        new = []
        for k, axis in enumerate(grid.axes):
            others = torch.stack([self.eps**2 + 0 * noise[k], *noise[:k], *noise[k + 1 :]]).prod(0)
            moment = grid.outer(white, axis) * (grid.sizes[axis] / white[0].numel()) + others * (p[k] @ p[k])
            eye = torch.eye(grid.sizes[axis], dtype=u.dtype, device=u.device)
            step = eye - due * self.rho / (2 * (_norm(moment) + 1)) * (moment - eye)
            turned = step @ old[k] @ step
            new.append((turned + turned.mT) / 2)
        white = grid.times(grid.cut(grid.pad(m_hat)), [f @ f for f in new])
        return grid.crop(grid.join(white), u.shape), {"m": m, "size": size, "q": packed(new)}


@method(
    label="PSGD",
    title="Curvature-Informed SGD via General Purpose Lie-Group Preconditioners",
    arxiv="2402.04553",
    year=2024,
    section="gradient whitening with Kronecker factors; the criterion: arXiv:1512.04202",
    notes="The criterion's mean over probes is taken exactly, and Q stays symmetric and positive by congruences, one of the coordinates "
    "that the group leaves free, so that there are neither triangular solves nor random numbers. Gradients are divided by a running "
    "size first, of which P then knows nothing.",
    space={"lr": log(1e-4, 1e-1), "b1": one_minus_log(0.5, 0.99), "rho": log(0.02, 0.5)},
)
def psgd(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.9,
    rho: Hyper = 0.1,
    eps: Hyper = 1e-4,
    weight_decay: Hyper = 0.0,
    every: int = 1,
    block: int = 1024,
    sides: Literal["both", "left", "right", "shorter"] = "both",
):
    whole("psgd", "every", every)
    whole("psgd", "block", block)
    return chain(ScaleByPsgd(b1, rho, eps, every, block, sides), clip_by_rms(1.1), decay(weight_decay), descend(lr))


@psgd.claim(
    "on a quadratic P approaches |H|^-1, up to its size, from gradients at random points",
    where="the whitening criterion",
)
def inverse_curvature(lab):
    made = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=made, dtype=torch.float64)

    def curved(n):
        q = torch.linalg.qr(normal(n, n)).Q
        return q * torch.logspace(0, -1, n, dtype=torch.float64) @ q.mT

    left, right = curved(6), curved(4)
    p = torch.zeros(6, 4, dtype=torch.float64)
    held = {"m": p, "size": p.new_zeros(()), "q": _identities(ScaleByPsgd(), p)}
    for t in range(1, 401):
        step = ScaleByPsgd(rho=0.3 / (1 + t / 30))
        _, held = step.update(left @ normal(6, 4) @ right, At(p, p, t), **held)
    for q, h in zip(unpacked(held["q"], grid_of((6, 4), 1024)), (left, right), strict=True):
        found = q[0] @ q[0] @ h
        yield lab.close(found / found.diagonal().mean(), torch.eye(len(h), dtype=torch.float64), rtol=0.3)
