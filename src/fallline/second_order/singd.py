r"""SINGD: K-FAC without an inverse. What is kept are roots K and C of the inverse factors themselves, which take a step each.

.. math::
    m_K \leftarrow \alpha m_K + \tfrac12 \Big( \tfrac{\mathrm{tr}\, H_C}{d_C} H_K + \lambda \tfrac{\mathrm{tr}\, C^T C}{d_C} K^T K - I \Big), \qquad
    K \leftarrow K (I - \beta m_K), \qquad D = C C^T\, \nabla_W L\, K K^T

with :math:`H_K = K^T A K`, :math:`H_C = C^T G C`, A and G the factors of K-FAC, and the same for C with the roles exchanged.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fallline.core.claims import claim
from fallline.core.errors import unknown
from fallline.core.oracle import Gradients, Oracle
from fallline.core.space import log
from fallline.core.types import Hyper, Params
from fallline.objectives.base import at_least
from fallline.second_order.base import Solver
from fallline.second_order.claims import network
from fallline.second_order.entries import number, step_method, steps
from fallline.second_order.kronecker import Kronecker, factors, kronecker
from fallline.second_order.layers import Layer

__all__ = ["singd"]

STRUCTURES = ("dense", "diagonal")


def singd(
    oracle: Oracle,
    damping: float = 1e-3,
    *,
    structure: str = "dense",
    rate: float = 1e-2,
    alpha: float = 0.5,
    normalise: bool = False,
    kind: str = "empirical",
    every: int = 1,
    seed: int = 0,
) -> Solver:
    r"""Structured inverse-free natural gradient: K-FAC's step by products alone, with dense or diagonal factors.

    At rest :math:`\mathrm{tr}(H_C)/d_C\, H_K + \lambda\, \mathrm{tr}(C^T C)/d_C\, K^T K = I`: then :math:`K K^T` is the inverse of A and the
    damping, weighted with the traces of the other side. Lin, Dangel, Eschenhagen, Neklyudov, Kristiadi, Turner and Makhzani 2024,
    arXiv:2312.05705; as in the authors' code.

    Args:
        damping: :math:`\lambda`.
        structure: of K and C: ``"dense"``, or ``"diagonal"``, whose H are the diagonals of the dense ones.
        rate: :math:`\beta`, of K and C.
        alpha: :math:`\alpha`, how much of the last m stays.
        normalise: divides the rate by the largest entry of m where that is above one, and the new part of m by :math:`1 / (1 - \alpha)`, as
            the authors' code offers for the first steps.
        kind: of the Fisher matrix, as for ``kfac``.
        every: steps between steps of K and C.
        seed: of the draws.
    """
    if structure not in STRUCTURES:
        raise unknown("structure of factors", structure, STRUCTURES)
    at_least("rate", rate, 0.0, above=True)
    at_least("alpha", alpha, 0.0, high=1.0)
    solver = kronecker(_SINGD, oracle, damping, kind, 0.0, every, seed)
    solver.diagonal, solver.rate, solver.alpha, solver.normalise = structure == "diagonal", rate, alpha, normalise
    return solver


@step_method(
    singd,
    label="SINGD",
    title="Structured Inverse-Free Natural Gradient: Memory-Efficient & Numerically-Stable KFAC",
    arxiv="2312.05705",
    year=2024,
    section="the SINGD update",
    notes="With the normalised rate of the authors' code. Stepped with heavy-ball momentum and a rate.",
    space={"lr": log(1e-3, 1.0), "damping": log(1e-4, 1e-1), "rate": log(1e-3, 1e-1)},
)
def _singd(
    lr: Hyper = 0.03,
    momentum: Hyper = 0.9,
    damping: Hyper = 1e-2,
    rate: Hyper = 3e-2,
    alpha: Hyper = 0.5,
    structure: Literal["dense", "diagonal"] = "dense",
    every: int = 1,
):
    return steps(lr, momentum), lambda oracle, seed: singd(
        oracle,
        number("damping", damping),
        structure=structure,
        rate=number("rate", rate),
        alpha=number("alpha", alpha),
        normalise=True,
        every=every,
        seed=seed,
    )


class _SINGD(Kronecker):
    diagonal: bool
    rate: float
    alpha: float
    normalise: bool

    def _moved(self, layers: list[Layer], slopes: dict[str, Tensor], count: int) -> Gradients:
        state = dict(self.state)
        for layer in layers:
            name, rows = layer.name, layer.rows.to(slopes[layer.name].dtype)
            for side, size in (("k", rows.shape[-1]), ("c", slopes[name].shape[-1])):
                if f"{name}.{side}" not in state:
                    eye = torch.eye(size, dtype=rows.dtype, device=rows.device)
                    state[f"{name}.{side}"] = eye.diagonal().clone() if self.diagonal else eye
                    state[f"{name}.m_{side}"] = torch.zeros_like(state[f"{name}.{side}"])
            if count % self.every == 0:
                found = self.mean_over_ranks(factors(name, rows, slopes[name]))
                state |= self._stepped(name, state, found[f"{name}.a"], found[f"{name}.g"])
        return state

    def _stepped(self, name: str, state: Params, a: Tensor, g: Tensor) -> Gradients:
        k, c = state[f"{name}.k"].to(a), state[f"{name}.c"].to(g)
        new: Gradients = {}
        seen = {"k": (self._inner(k, a), self._inner(k)), "c": (self._inner(c, g), self._inner(c))}
        for side, other, root in (("k", "c", k), ("c", "k", c)):
            (h, plain), (h_other, plain_other) = seen[side], seen[other]
            one = torch.ones_like(h) if self.diagonal else torch.eye(len(h), dtype=h.dtype, device=h.device)
            part = _mean(h_other) * h + self.damping * _mean(plain_other) * plain - one
            part = part * (0.5 * (1 - self.alpha if self.normalise else 1.0))
            m = self.alpha * state[f"{name}.m_{side}"].to(h) + part
            rate = self.rate / m.abs().amax().clamp(min=1.0) if self.normalise else self.rate
            moved = root - rate * (root * m if self.diagonal else root @ m)
            new |= {f"{name}.{side}": moved, f"{name}.m_{side}": m}
        return new

    def _inner(self, root: Tensor, a: Tensor | None = None) -> Tensor:
        """R^T A R, or R^T R: a matrix, or for a diagonal R the diagonal."""
        if self.diagonal:
            return root.square() if a is None else root.square() * a.diagonal()
        return root.T @ (root if a is None else a @ root)

    def direction(self, name: str, g: Tensor, state: Params) -> Tensor:
        k, c = state[f"{name}.k"].to(g), state[f"{name}.c"].to(g)
        if self.diagonal:
            return c.square()[:, None] * g * k.square()
        return c @ (c.T @ g @ k) @ k.T


def _mean(h: Tensor) -> Tensor:
    """The trace over the dimension, of a matrix or of its diagonal."""
    return h.mean() if h.dim() == 1 else h.trace() / len(h)


# -- claims -----------------------------------------------------------------------------------------------------------------


@claim("singd", "on one batch the factors come to rest where tr(H_C)/d_C H_K + damping tr(C'C)/d_C K'K = I, with neither inverse nor "
       "decomposition", where="arXiv:2312.05705")  # fmt: skip
def comes_to_rest(lab):
    oracle, batch = network(4, 5, 3, examples=20, tanh=True)
    for structure in STRUCTURES:
        solver = singd(oracle, 0.1, structure=structure, rate=0.3, kind="exact")
        for _ in range(70):
            solver.value_and_grad(oracle.params, batch, statistics=True)
        for name in ("0", "2"):
            yield lab.less(float(solver.state[f"{name}.m_k"].abs().max()), 1e-6)
            yield lab.less(float(solver.state[f"{name}.m_c"].abs().max()), 1e-6)


@claim("singd", "for a linear model at rest the step is that of damped K-FAC up to its length: K K' is proportional to (A + s I)^-1",
       where="arXiv:2312.05705")  # fmt: skip
def rests_at_an_inverse(lab):
    oracle, batch = network(4, 3, examples=30, tanh=False)
    solver = singd(oracle, 0.1, rate=0.3, kind="exact")
    for _ in range(120):
        solver.value_and_grad(oracle.params, batch, statistics=True)
    k, c = solver.state["0.k"], solver.state["0.c"]
    x = batch[0]
    a = x.T @ x / len(x)
    g = torch.linalg.inv(k @ k.T)  # tr(H_C)/d_C A + damping tr(C'C)/d_C I
    off = g - g.trace() / len(g) * torch.eye(4, dtype=g.dtype)
    shape = a - a.trace() / len(a) * torch.eye(4, dtype=g.dtype)
    yield lab.close(off / off.norm(), shape / shape.norm(), rtol=1e-5)
    yield lab.less(0.1 * float((c.T @ c).trace()) / 3 - 1e-6, float(torch.linalg.eigvalsh(g)[0]))
