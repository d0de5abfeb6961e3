r"""Shampoo: every dimension of a tensor is whitened by an inverse root of its own second moment.

.. math::
    L_t &= b_2 L_{t-1} + (1 - b_2)\, g_t g_t^\top, \qquad R_t = b_2 R_{t-1} + (1 - b_2)\, g_t^\top g_t \\
    d_t &= \hat L_t^{-1/4}\, g_t\, \hat R_t^{-1/4}, \qquad
    u_t = b_1 u_{t-1} + (1 - b_1) \frac{\| a_t \|}{\| d_t \|} d_t, \qquad p \leftarrow p - \mathrm{lr}\, (u_t + \lambda p)

for a matrix; a tensor with k dimensions has k factors and the exponent :math:`-1 / (2 k)`. Directions are Shampoo's, lengths those of
another method's step :math:`a_t` (``graft``). With :math:`b_2 = 1` moments are sums, as in the first paper. Tensors longer than ``block`` are
cut into blocks, and roots are taken every ``every`` steps. Vectors take RMSprop's step.
"""

from __future__ import annotations

from typing import Literal

import torch

from fallline.core.hyper import Domain
from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import Transform, chain, transform
from fallline.core.types import Hyper, Reach
from fallline.schedules import cosine
from fallline.transforms import decay, descend, momentum
from fallline.transforms.average import whole
from fallline.transforms.kronecker import factor_slot, grid_of, identity_slot, packed, unpacked
from fallline.transforms.roots import inverse_root, turn_of, when


def _moment(step, p):
    grid = grid_of(tuple(p.shape), step.block, step.sides)
    return torch.zeros_like(p) if grid is None or step.graft in ("rmsprop", "adagrad") else p.new_zeros(())


@transform
class ScaleByShampoo(Transform):
    """Its direction, as long as the step that is grafted; ``root`` is 2 k where it is 0, ``sides`` says which dimensions have factors. With
    ``spread`` tensors of different shapes renew their roots at different steps, and all at the first one"""

    b2: Hyper = 0.999
    eps: Hyper = 1e-6
    graft: str = "rmsprop"
    every: int = 10
    block: int = 1024
    sides: str = "both"
    solver: str = "eigh"
    root: int = 0
    spread: bool = False
    reach = Reach.MATRIX
    compiles = False
    domains = {"b2": Domain("[0, 1]"), "eps": Domain("[0, 1)")}
    slots = {"factors": factor_slot, "roots": identity_slot, "v": _moment}
    nonnegative = frozenset({"v"})

    def update(self, u, at, *, factors, roots, v):
        new = 1 - self.b2 + (self.b2 == 1)  # a sum, or an average that began at zero
        weight = 1 - self.b2**at.t + (self.b2 == 1)
        grid = grid_of(tuple(u.shape), self.block, self.sides)
        if self.graft == "adagrad":
            v = v + u * u
        elif self.graft == "rmsprop" or grid is None:
            v = self.b2 * v + new * u * u
        length = v if self.graft == "adagrad" else v / weight
        graft = u / (length.sqrt() + 1e-8) if length.shape == u.shape else u
        if grid is None:
            return graft, {"factors": factors, "roots": roots, "v": v}
        blocks = grid.cut(grid.pad(u))
        old = unpacked(factors, grid)
        held = [self.b2 * f + new * grid.outer(blocks, axis) for f, axis in zip(old, grid.axes, strict=True)]
        root = self.root or 2 * len(grid.axes)

        def renew():
            return (packed([inverse_root(f / weight, root, self.eps, self.solver) for f in held]),)

        due = (at.turn - 1) % self.every == (turn_of(tuple(u.shape), self.every) if self.spread else 0)
        (roots,) = when(due | (at.turn == 1), renew, (roots,))
        step = grid.crop(grid.join(grid.times(blocks, unpacked(roots, grid))), u.shape)
        if self.graft != "none":
            size = step.norm()
            step = graft.norm() / (size + (size == 0)) * step
        return step, {"factors": packed(held), "roots": roots, "v": v}


@method(
    label="Shampoo",
    title="Shampoo: Preconditioned Stochastic Tensor Optimization",
    arxiv="1802.09568",
    year=2018,
    section="algorithms 1 and 2; grafting, blocks and intervals: arXiv:2002.09018",
    notes="b2=1 and graft='none' give the first paper's method. eps is relative to a factor's largest eigenvalue, as in the second paper; "
    "there, as here, momentum comes last. Dimensions after the first are merged while a block holds them. sides='left', 'right' or "
    "'shorter' keeps factors for these dimensions only, with the exponent that goes with their number. solver='newton' takes "
    "roots by the coupled Newton iteration, products alone, during which a GPU never waits for the host. ScaleByShampoo has other exponents "
    "(root). spread=True lets tensors of different shapes renew their roots "
    "at different steps, so that no step after the first has to renew them all.",
    space={"lr": log(3e-4, 3e-1), "b1": one_minus_log(0.5, 0.99), "b2": one_minus_log(0.9, 0.999)},
)
def shampoo(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-6,
    weight_decay: Hyper = 0.0,
    graft: Literal["rmsprop", "adagrad", "sgd", "none"] = "rmsprop",
    every: int = 10,
    block: int = 1024,
    sides: Literal["both", "left", "right", "shorter"] = "both",
    solver: Literal["eigh", "newton"] = "eigh",
    spread: bool = False,
):
    whole("shampoo", "every", every)
    whole("shampoo", "block", block)
    step = ScaleByShampoo(b2, eps, graft, every, block, sides, solver, spread=spread)
    return chain(step, momentum(b1, b1), decay(weight_decay), descend(lr))


@shampoo.claim("its first step, with sums and without grafting, is the gradient's polar factor", where="algorithm 1")
def whitened(lab):
    u, _, vh = torch.linalg.svd(lab.gradient(), full_matrices=False)
    step = lab.one_step(shampoo, lr=1.0, b1=0.0, b2=1.0, eps=0.0, graft="none")
    yield lab.close(step, -u @ vh, rtol=1e-7)


@shampoo.claim(
    "on an ill-conditioned matrix quadratic it is nearer after 100 steps than AdamW after 300",
    where="experiments; here on a quadratic",
)
def faster_than_adamw(lab):
    loss = lab.matrix_quadratic(1e3)
    ours = loss(lab.minimise(shampoo, loss, 100, lr=1.0 * cosine(100), b2=0.9, every=1))
    for lr in (0.1, 0.3, 1.0):
        theirs = loss(lab.minimise(lab.method("adamw"), loss, 300, lr=lr * cosine(300), weight_decay=0.0))
        yield lab.less(float(ours), float(theirs))
