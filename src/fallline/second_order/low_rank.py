r"""PSGD with a low-rank preconditioner over all parameters, fitted to products with the Hessian or to gradients.

.. math::
    P = Q^T Q, \qquad Q = (I + U V^T)\, \mathrm{diag}(d), \qquad \min_Q\ \mathbb{E}\big[ h^T P h + v^T P^{-1} v \big], \qquad h = H v
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError, unknown
from fallline.core.oracle import Batch, Gradients, Oracle, of_loss
from fallline.core.space import log
from fallline.core.types import Hyper, Params
from fallline.curvature import Space, hessian
from fallline.objectives.base import at_least, differentiable, flat
from fallline.objectives.problems import Point, quadratic
from fallline.second_order.base import PRODUCT, Direction, finite
from fallline.second_order.entries import number, step_method, steps

__all__ = ["psgd_lra"]

FITS = ("hessian", "whitening")


def psgd_lra(
    oracle: Oracle, rank: int = 10, *, rate: float = 0.1, fit: str = "hessian", every: int = 1, seed: int = 0
) -> Direction:
    r"""PSGD, low-rank form: the step is P g, P learnt from pairs (v, h) by steps within a group, without damping.

    With ``fit="hessian"`` h is the product of the batch's Hessian with a normal v: the criterion's minimum is :math:`P = |H|^{-1}`, so far as
    d and the rank reach. With ``fit="whitening"`` h is the gradient: :math:`P = \mathbb{E}[g g^T]^{-1/2}`. U and V take steps in turn, d
    always, each with its rate over a running bound of its curvature. Li 2024, arXiv:2402.11858 and 2402.04553; in the form of the author's
    code of 2025, which tosses a coin for U or V. The method ``psgd`` whitens with Kronecker factors.

    Args:
        rank: columns of U and of V.
        rate: of U, V and d.
        fit: ``"hessian"`` or ``"whitening"``.
        every: steps between steps of P.
        seed: of U, V and of the draws.
    """
    if fit not in FITS:
        raise unknown("fit of psgd_lra", fit, FITS)
    at_least("rate", rate, 0.0, above=True, high=1.0)
    size = sum(p.numel() for p in oracle.params.values())
    if not 1 <= rank <= size or every < 1:
        raise InvalidValueError(
            f"psgd_lra() got rank={rank}, every={every} for {size} parameters. Expected a rank of 1 to {size} and every of at least 1. Pass "
            f"for example rank=10."
        )
    inner = differentiable(oracle, "psgd_lra") if fit == "hessian" else oracle
    return _LowRank(inner, rank, rate, fit == "hessian", every, seed)


@step_method(
    psgd_lra,
    label="PSGDLRA",
    title="Curvature-Informed SGD via General Purpose Lie-Group Preconditioners",
    arxiv="2402.04553",
    year=2024,
    section="low-rank approximation",
    notes="Fitted to Hessian products. Stepped with heavy-ball momentum and a rate.",
    space={"lr": log(1e-3, 1.0), "rate": log(1e-2, 0.5)},
)
def _psgd_lra(
    lr: Hyper = 0.03,
    momentum: Hyper = 0.0,
    rate: Hyper = 0.1,
    rank: int = 10,
    fit: Literal["hessian", "whitening"] = "hessian",
    every: int = 1,
):
    return steps(lr, momentum), lambda oracle, seed: psgd_lra(
        oracle, rank, rate=number("rate", rate), fit=fit, every=every, seed=seed
    )


class _LowRank(Direction):
    def __init__(self, inner: Oracle, rank: int, rate: float, newton: bool, every: int, seed: int) -> None:
        super().__init__(inner)
        self.rank, self.rate, self.newton, self.every, self.seed = rank, rate, newton, every, seed
        self.state["count"] = torch.zeros((), dtype=torch.int64)

    def value_and_grad(self, params: Params, batch: Batch, *, statistics: bool = False) -> tuple[Tensor, Gradients]:
        value, g = self.inner.value_and_grad(params, batch, statistics=statistics)
        self.gradients = 1
        if not finite(g):  # the optimizer refuses it; P stays as it is
            return value, g
        space = Space.of(params)
        b = space.flatten(g)
        count = int(self.state["count"])
        state = dict(self.state)
        if count % self.every == 0:
            random = torch.Generator().manual_seed(self.seed * 1_000_003 + count)
            v = torch.randn(len(b), generator=random, dtype=torch.float64).to(b)
            if self.newton:
                self.gradients += PRODUCT
                h = hessian(self.inner, batch, params) @ v
            else:
                h = b
            if bool(h.isfinite().all()) and bool(h.any()):
                state |= self._fitted(state, v, h, random, count // self.every)
        if statistics:
            self.state = {**state, "count": self.state["count"] + 1}
        if "d" not in state:
            return value, g
        return value, space.unflatten(preconditioned(state["u"].to(b), state["v"].to(b), state["d"].to(b), b))

    def _fitted(self, state: Params, v: Tensor, h: Tensor, random: torch.Generator, turn: int) -> Gradients:
        if "d" in state:
            left, right, d = (state[k].to(h) for k in ("u", "v", "d"))
        else:
            left, right = (
                x / x.norm() for x in torch.randn(2, len(h), self.rank, generator=random, dtype=torch.float64).to(h)
            )
            d = torch.full_like(h, float(v.square().mean() ** 0.25 * h.pow(4).mean() ** -0.125))
        kept = {k: state.get(f"bound_{k}", h.new_zeros(())).to(h) for k in ("u", "v", "d")}
        return _one_step(left, right, d, v, h, self.rate, kept, turn)


def preconditioned(u: Tensor, v: Tensor, d: Tensor, g: Tensor) -> Tensor:
    r"""P g, :math:`\mathrm{diag}(d) (I + V U^T) (I + U V^T) \mathrm{diag}(d)\, g`, for U and V of (n, rank) and d, g of (n,)."""
    q = d * g
    q = q + u @ (v.T @ q)
    return d * (q + v @ (u.T @ q))


def _one_step(
    u: Tensor, v: Tensor, d: Tensor, probe: Tensor, h: Tensor, rate: float, bounds: Params, turn: int
) -> Gradients:
    """One step of the criterion for a pair, with a = Q h and b = Q^-T v, whose outer products are equal at its minimum."""
    a = d * h
    a = a + u @ (v.T @ a)
    core = v.T @ u + torch.eye(u.shape[1], dtype=u.dtype, device=u.device)
    b = probe / d
    b = b - v @ torch.linalg.solve_ex(core.T, u.T @ b).result
    scale = (u.norm() / v.norm()).sqrt()  # U and V alike in size, since their bounds are not free of it
    u, v = u / scale, v * scale
    new = dict(bounds)
    if turn % 2 == 0:
        at, bt = a @ v, b @ v
        new["u"] = _bound(bounds["u"], a.norm() * (v @ at).norm() + b.norm() * (v @ bt).norm())
        u = u - rate / new["u"] * (torch.outer(a, at @ core) - torch.outer(b, bt @ core))
    else:
        at, bt = a @ u, b @ u
        new["v"] = _bound(bounds["v"], a.norm() * (u @ at).norm() + b.norm() * (u @ bt).norm())
        v = v - rate / new["v"] * (torch.outer(a + v @ at, at) - torch.outer(b + v @ bt, bt))
    new["d"] = _bound(bounds["d"], (a.square() + b.square()).amax())
    s = 1 - rate / new["d"] * (a.square() - b.square())
    found = {"u": u * s[:, None], "v": v / s[:, None], "d": d * s}
    return {**found, **{f"bound_{k}": x for k, x in new.items()}}


def _bound(old: Tensor, seen: Tensor) -> Tensor:
    return torch.maximum(0.9 * old + 0.1 * seen, seen)


# -- claims -----------------------------------------------------------------------------------------------------------------


def _matrix(solver: Direction, n: int) -> Tensor:
    eye = torch.eye(n, dtype=torch.float64)
    return torch.stack([preconditioned(solver.state["u"], solver.state["v"], solver.state["d"], e) for e in eye])


@claim("psgd_lra", "on a quadratic P approaches |H|^-1, so that the eigenvalues of P |H| go to one, without damping or a line search; exactly "
       "where H is positive", where="arXiv:2402.11858, the criterion")  # fmt: skip
def inverse_of_the_absolute_hessian(lab):
    oracle, batch, h, _ = quadratic()
    solver = psgd_lra(oracle, rank=5, rate=0.5)
    for _ in range(400):
        solver.value_and_grad(oracle.params, batch, statistics=True)
    values = torch.linalg.eigvals(_matrix(solver, 5) @ h).real
    yield lab.close(values, torch.ones(5), rtol=1e-3)
    step = flat(solver.value_and_grad(oracle.params, batch)[1])
    yield lab.close(step, torch.linalg.solve(h, flat(oracle.value_and_grad(oracle.params, batch)[1])), rtol=1e-2)


@claim(
    "psgd_lra",
    "where curvature is negative, too, P is near |H|^-1, and the step goes down",
    where="arXiv:2402.11858, the criterion",
)
def saddle(lab):
    curvature = torch.tensor([4.0, -2.0, 1.0, -0.5, 0.25], dtype=torch.float64)
    oracle = of_loss(Point(), lambda model, batch: (curvature * model().square()).sum() / 2)
    solver = psgd_lra(oracle, rank=1, rate=0.05)
    batch = (torch.zeros(1),)
    for _ in range(400):
        solver.value_and_grad(oracle.params, batch, statistics=True)
    values = torch.linalg.eigvals(_matrix(solver, 5) * curvature.abs()).real
    yield lab.close(values, torch.ones(5), rtol=0.5)
    g = flat(oracle.value_and_grad(oracle.params, batch)[1])
    yield lab.less(0.0, float(flat(solver.value_and_grad(oracle.params, batch)[1]) @ g))
