r"""SOAP: Adam in the eigenbasis of Shampoo's factors, which is followed by one step of orthogonal iteration now and then.

.. math::
    L_t &= b_2 L_{t-1} + (1 - b_2)\, g_t g_t^\top, \qquad R_t = b_2 R_{t-1} + (1 - b_2)\, g_t^\top g_t \\
    m_t &= b_1 m_{t-1} + (1 - b_1) g_t, \qquad v_t = b_2 v_{t-1} + (1 - b_2) (Q_L^\top g_t Q_R)^2 \\
    u_t &= Q_L\, \frac{Q_L^\top \hat m_t Q_R}{\sqrt{\hat v_t} + \epsilon}\, Q_R^\top, \qquad
    Q_L \leftarrow \mathrm{qr}(L_t Q_L),\ Q_R \leftarrow \mathrm{qr}(R_t Q_R) \text{ every } k \text{ steps}

A tensor with more dimensions has a basis for each. Tensors longer than ``block`` are cut into blocks. Vectors take AdamW's step.
"""

from __future__ import annotations

from typing import Literal

import torch

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform, zeros
from fallline.core.types import Hyper, Reach
from fallline.schedules import cosine
from fallline.transforms import decay, descend
from fallline.transforms.average import whole
from fallline.transforms.kronecker import factor_slot, grid_of, identity_slot, packed, padded_slot, unpacked
from fallline.transforms.roots import turn_of, when


def _eigenvectors(a):
    """Descending; of what is not finite, in steps that will not be taken, those of zeros."""
    a = a.nan_to_num()
    size = a.abs().amax((-2, -1), keepdim=True)
    return torch.linalg.eigh(a / (size + (size == 0))).eigenvectors.flip(-1)


def _followed(a, q):
    """(order, basis): the basis' vectors by the size of what a makes of them, and one orthogonal iteration from there."""
    a = a.nan_to_num()
    size = a.abs().amax((-2, -1), keepdim=True)
    turned = (a / (size + (size == 0))) @ q
    order = (q * turned).sum(-2).sort(stable=True, dim=-1, descending=True).indices
    return order, torch.linalg.qr(turned.gather(-1, order.unsqueeze(-2).expand_as(q))).Q


@transform
class ScaleBySoap(Transform):
    b1: Hyper = 0.95
    b2: Hyper = 0.95
    eps: Hyper = 1e-8
    every: int = 10
    block: int = 1024
    sides: str = "both"
    spread: bool = False
    reach = Reach.MATRIX
    compiles = False
    slots = {**zeros("m"), "v": padded_slot, "factors": factor_slot, "bases": identity_slot}
    nonnegative = frozenset({"v"})

    def update(self, u, at, *, m, v, factors, bases):
        m = m.lerp(u, 1 - self.b1)
        m_hat, weight = m / (1 - self.b1**at.t), 1 - self.b2**at.t
        grid = grid_of(tuple(u.shape), self.block, self.sides)
        if grid is None:
            v = v.lerp(u * u, 1 - self.b2)
            return m_hat / ((v / weight).sqrt() + self.eps), {"m": m, "v": v, "factors": factors, "bases": bases}
        g = grid.cut(grid.pad(u))
        held = [f.lerp(grid.outer(g, a), 1 - self.b2) for f, a in zip(unpacked(factors, grid), grid.axes, strict=True)]
        (bases,) = when(at.turn == 1, lambda: (packed([_eigenvectors(f) for f in held]),), (bases,))
        q = unpacked(bases, grid)
        second = grid.cut(v.reshape(grid.padded)).lerp(grid.times(g, q, transposed=True).square(), 1 - self.b2)
        first = grid.times(grid.cut(grid.pad(m_hat)), q, transposed=True)
        step = grid.times(first / ((second / weight).sqrt() + self.eps), q)

        def follow():
            moved, turned = second, []
            for axis, f, basis in zip(grid.axes, held, q, strict=True):
                order, found = _followed(f, basis)
                turned.append(found)
                lead = moved.movedim(axis + 1, 1)
                index = order.reshape(*order.shape, *[1] * (lead.dim() - 2)).expand(lead.shape)
                moved = lead.gather(1, index).movedim(1, axis + 1)
            return packed(turned), moved

        turn = turn_of(tuple(u.shape), self.every) if self.spread else 0
        bases, second = when(at.turn % self.every == turn, follow, (bases, second))
        kept = {"m": m, "v": grid.join(second).reshape(v.shape), "factors": packed(held), "bases": bases}
        return grid.crop(grid.join(step), u.shape), kept


@method(
    label="SOAP",
    title="SOAP: Improving and Stabilizing Shampoo using Adam",
    arxiv="2409.11321",
    year=2024,
    section="algorithm 3",
    notes="One b2 for factors and second moment, as in the authors' code, whose betas are (0.95, 0.95). That code takes no step at first, "
    "to have a basis; here the basis is that of the first gradient. The basis' vectors are kept in descending order, and v with them. "
    "sides='left', 'right' or 'shorter' is the one-sided form. spread=True lets tensors of different shapes follow at different steps.",
    space={"lr": log(3e-4, 3e-1), "b1": one_minus_log(0.5, 0.99), "b2": one_minus_log(0.9, 0.999)},
    xfail={"movement_dies_out": "of a vector it dies out at 2.5 % a step, b1 / sqrt(b2) being 0.975"},
)
def soap(
    lr: Hyper = 3e-3,
    b1: Hyper = 0.95,
    b2: Hyper = 0.95,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    every: int = 10,
    block: int = 1024,
    sides: Literal["both", "left", "right", "shorter"] = "both",
    spread: bool = False,
):
    whole("soap", "every", every)
    whole("soap", "block", block)
    return chain(ScaleBySoap(b1, b2, eps, every, block, sides, spread), decay(weight_decay), descend(lr))


@soap.claim(
    "turning the gradients turns its steps: Adam depends on the coordinates, SOAP does not", where="algorithm 3"
)
def turns_along(lab):
    turn = torch.linalg.qr(lab.gradient(seed=9).mT @ lab.gradient(seed=10)).Q
    grads = [lab.gradient(seed=t) for t in range(6)]
    for hypers in ({"every": 1}, {"every": 2, "b1": 0.5}):  # one side, on which the first gradient has full rank
        plain = lab.follow(soap, grads, sides="right", **hypers)
        turned = lab.follow(soap, [g @ turn for g in grads], sides="right", **hypers)
        yield lab.close(turned[-1] - turned[0], (plain[-1] - plain[0]) @ turn, rtol=1e-7)


@soap.claim(
    "on an ill-conditioned matrix quadratic it is nearer after 60 steps than AdamW after 180",
    where="experiments; here on a quadratic",
)
def faster_than_adamw(lab):
    loss = lab.matrix_quadratic(1e3)
    ours = loss(lab.minimise(soap, loss, 60, lr=1.0 * cosine(60), b1=0.9))
    for lr in (0.1, 0.3, 1.0):
        theirs = loss(lab.minimise(lab.method("adamw"), loss, 180, lr=lr * cosine(180), weight_decay=0.0))
        yield lab.less(float(ours), float(theirs))
