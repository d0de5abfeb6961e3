r"""Saddle-free Newton: every direction is scaled by the size of its curvature, so that saddles repel and minima attract.

.. math:: d = (|H| + \lambda I)^{-1} g, \qquad |H| = V |\Lambda| V^T
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.core.oracle import Batch, Gradients, Oracle, of_loss
from fallline.core.space import log, one_minus_log
from fallline.core.types import Hyper, Params
from fallline.curvature import eigsh, hessian
from fallline.objectives.base import differentiable, flat, unflatten
from fallline.objectives.problems import classifier
from fallline.second_order.base import PRODUCT, Solver, eigh, finite
from fallline.second_order.entries import number, step_method, steps
from fallline.second_order.newton import newton_cg

__all__ = ["saddle_free_newton"]

EXACT = 2000
"""Parameters up to which the whole matrix is decomposed: two Hessian-sized matrices and a few seconds."""


def saddle_free_newton(
    oracle: Oracle, damping: float = 1e-3, rank: int | None = None, *, max_products: int = 100
) -> Solver:
    r"""Newton's step with the absolute Hessian, :math:`(|H| + \lambda I)^{-1} g`: at a saddle it goes down where Newton goes up.

    Dauphin et al. 2014, arXiv:1406.2572. Without ``rank`` the matrix is formed and decomposed, one product for each parameter. With it,
    the ``rank`` eigenvalues largest in size come from Lanczos; of the gradient's rest, where the paper takes no step, each is smaller than the
    smallest of these, which is what the rest is divided by: a step shorter than the exact one.

    Args:
        damping: :math:`\lambda`.
        rank: eigenpairs; None for all of them.
        max_products: of the Hessian with vectors, at each step, with ``rank``.
    """
    inner = differentiable(oracle, "saddle_free_newton")
    size = sum(p.numel() for p in inner.params.values())
    if rank is None and size > EXACT:
        raise InvalidValueError(
            f"saddle_free_newton() got {size} parameters and no rank. Expected at most {EXACT} for the whole matrix. Pass for example rank=20."
        )
    if rank is not None and not 1 <= rank <= min(size, max_products):
        raise InvalidValueError(
            f"saddle_free_newton() got rank={rank}, max_products={max_products} for {size} parameters. Expected 1 to "
            f"{min(size, max_products)} pairs. Pass for example rank=20."
        )
    return _SaddleFree(inner, damping, rank, max_products)


@step_method(
    saddle_free_newton,
    label="SaddleFreeNewton",
    title="Identifying and attacking the saddle point problem in high-dimensional non-convex optimization",
    arxiv="1406.2572",
    year=2014,
    section="algorithm 1",
    notes="Of the largest 10 eigenvalues, from 30 products a step; stepped with heavy-ball momentum and a rate.",
    space={"lr": log(1e-3, 1.0), "damping": log(1e-5, 1e-1), "momentum": one_minus_log(0.5, 0.99)},
)
def _saddle_free_newton(
    lr: Hyper = 0.1, momentum: Hyper = 0.0, damping: Hyper = 1e-3, rank: int = 10, max_products: int = 30
):
    return steps(lr, momentum), lambda oracle, seed: saddle_free_newton(
        oracle, number("damping", damping), rank, max_products=max_products
    )


class _SaddleFree(Solver):
    def __init__(self, inner: Oracle, damping: float, rank: int | None, max_products: int) -> None:
        super().__init__(inner, damping)
        self.rank, self.max_products = rank, max_products

    def value_and_grad(self, params: Params, batch: Batch, *, statistics: bool = False) -> tuple[Tensor, Gradients]:
        value, g = self.inner.value_and_grad(params, batch, statistics=statistics)
        if not finite(g):  # left to the optimizer, which refuses it
            return value, g
        self.gradients = 1
        operator = hessian(self.inner, batch, params)
        b = operator.domain.flatten(g)
        if self.rank is None:
            self.gradients += PRODUCT * len(b)
            sizes, vectors = eigh(operator.dense())
            d = vectors @ ((vectors.T @ b) / (sizes.abs() + self.damping))
            return value, operator.domain.unflatten(d)
        found = eigsh(operator, self.rank, which="magnitude", tol=1e-2, max_products=self.max_products)
        self.gradients += PRODUCT * found.num_products
        sizes, inside = found.values.abs().to(b), found.vectors.T @ b
        d = found.vectors @ (inside / (sizes + self.damping))
        d = d + (b - found.vectors @ inside) / (sizes.min() + self.damping)
        return value, operator.domain.unflatten(d)


# -- claims -----------------------------------------------------------------------------------------------------------------


class _Pair(nn.Module):
    """Two numbers, returned as the output."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.5, 0.01], dtype=torch.float64))

    def forward(self) -> Tensor:
        return self.w


def _saddle() -> tuple[Oracle, Batch]:
    """x^2 / 2 - y^2 / 2 + y^4 / 4: a saddle at 0, minima of -1/4 at y = -1 and 1."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        x, y = model()
        return x**2 / 2 - y**2 / 2 + y**4 / 4

    return of_loss(_Pair(), loss), (torch.zeros(1),)


def _newton(oracle: Oracle, batch: Batch) -> Gradients:
    h, g = hessian(oracle, batch).dense(), oracle.value_and_grad(oracle.params, batch)[1]
    return unflatten(torch.linalg.solve(h, flat(g)), oracle.params)


@claim("saddle_free_newton", "it leaves the saddle that Newton's method converges to, and ends in a minimum",
       where="arXiv:1406.2572, algorithm 1")  # fmt: skip
def it_leaves_a_saddle(lab):
    for step, value in (
        (lambda o, b: saddle_free_newton(o, 1e-6).value_and_grad(o.params, b)[1], -0.25),
        (_newton, 0.0),
    ):
        oracle, batch = _saddle()
        for _ in range(20):
            d = step(oracle, batch)
            with torch.no_grad():
                oracle.params["w"].sub_(d["w"])
        yield lab.less(abs(float(oracle.loss(oracle.params, batch).detach()) - value), 1e-9)


@claim("saddle_free_newton", "from Lanczos vectors of all directions it is the exact step, from few of them shorter along all others",
       where="arXiv:1406.2572")  # fmt: skip
def lanczos_is_exact_with_all(lab):
    oracle, batch = classifier()
    exact = flat(saddle_free_newton(oracle, 0.1).value_and_grad(oracle.params, batch)[1])
    size = len(exact)
    found = flat(saddle_free_newton(oracle, 0.1, rank=size).value_and_grad(oracle.params, batch)[1])
    yield lab.close(found, exact, rtol=1e-6)
    few = flat(saddle_free_newton(oracle, 0.1, rank=5).value_and_grad(oracle.params, batch)[1])
    yield lab.less(float(few.norm()), float(exact.norm()) * 1.001)


@claim("saddle_free_newton", "where the Hessian is positive it is Newton's step", where="arXiv:1406.2572")
def positive_is_newton(lab):
    oracle, batch = _saddle()
    with torch.no_grad():
        oracle.params["w"].copy_(torch.tensor([0.5, 1.4]))
    expected = newton_cg(oracle, tol=1e-13).value_and_grad(oracle.params, batch)[1]["w"]
    yield lab.close(saddle_free_newton(oracle, 0.0).value_and_grad(oracle.params, batch)[1]["w"], expected)
