r"""Newton steps by products with the Hessian: truncated conjugate gradients, and damping by the size of the gradient.

.. math:: d = (\nabla^2 L + \lambda I)^{-1} g
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError, unknown
from fallline.core.oracle import Batch, Gradients, Oracle, of_loss
from fallline.core.space import log, one_minus_log
from fallline.core.types import Hyper, Params
from fallline.curvature import ggn, hessian
from fallline.objectives.base import at_least, differentiable, flat
from fallline.objectives.problems import quadratic
from fallline.second_order.base import PRODUCT, LevenbergMarquardt, Solver, plain
from fallline.second_order.conjugate import conjugate_gradient
from fallline.second_order.entries import number, step_method, steps

__all__ = ["newton_cg", "regularised_newton"]

CURVATURES = ("hessian", "gauss_newton")


def newton_cg(
    oracle: Oracle,
    damping: float | LevenbergMarquardt = 0.0,
    *,
    curvature: str = "hessian",
    tol: float | None = None,
    max_products: int = 100,
    warm_start: float = 0.0,
) -> Solver:
    r"""Newton's step by truncated conjugate gradients, one Hessian product an iteration: no matrix is formed.

    .. math:: |(B + \lambda I) d - g| \le \eta |g|, \qquad \eta = \min(\tfrac12, \sqrt{|g|})

    At a direction of negative curvature d is what has been found so far, or g if that is nothing: always a descent direction (Nocedal and
    Wright 2006, algorithm 7.1). With ``curvature="gauss_newton"``, ``levenberg_marquardt()`` and ``warm_start=0.95`` it is Martens'
    Hessian-free optimisation (ICML 2010), but for his stopping rule.

    Args:
        damping: :math:`\lambda`, fixed, or ``levenberg_marquardt()``.
        curvature: ``"hessian"``, or ``"gauss_newton"``, which has no negative curvature for convex losses. Both are those of the model
            in evaluation mode.
        tol: :math:`\eta` itself, in place of the formula.
        max_products: of B with vectors, at each step.
        warm_start: the share of the last step at which conjugate gradients begin.
    """
    if curvature not in CURVATURES:
        raise unknown("curvature", curvature, CURVATURES)
    if tol is not None:
        at_least("tol", tol, 0.0)
    if max_products < 1:
        raise InvalidValueError(
            f"newton_cg() got max_products={max_products}. Expected at least 1. Leave it out for 100."
        )
    at_least("warm_start", warm_start, 0.0, high=1.0)
    inner = differentiable(oracle, "newton_cg") if curvature == "hessian" else plain(oracle, "newton_cg")
    return _NewtonCG(inner, damping, curvature, tol, max_products, warm_start)


class _NewtonCG(Solver):
    def __init__(
        self,
        inner: Oracle,
        damping: float | LevenbergMarquardt,
        curvature: str,
        tol: float | None,
        max_products: int,
        warm_start: float,
    ) -> None:
        super().__init__(inner, damping)
        self.curvature, self.tol, self.max_products, self.warm_start = curvature, tol, max_products, warm_start

    def value_and_grad(self, params: Params, batch: Batch, *, statistics: bool = False) -> tuple[Tensor, Gradients]:
        value, g = self.inner.value_and_grad(params, batch, statistics=statistics)
        operator = (hessian if self.curvature == "hessian" else ggn)(self.inner, batch, params)
        b = operator.domain.flatten(g)
        eta = min(0.5, math.sqrt(float(b.norm()))) if self.tol is None else self.tol
        start = self.warm_start * self.state["last"].to(b) if "last" in self.state else None
        found = conjugate_gradient(
            operator, b, damping=self.damping_at(b), tol=eta, max_products=self.max_products, start=start
        )
        d = found.x
        self.gradients = 1 + PRODUCT * found.num_products
        if not float(d @ b) > 0:  # nothing before negative curvature, a start that leads up, or g is not finite
            d = b
        named = operator.domain.unflatten(d)
        if statistics and self.rule is not None:
            if found.negative is not None:  # no minimum of the model to compare with
                self.state["damping"] = self.rule.next(self.state["damping"], torch.zeros(()))
            else:
                self.adapt(params, batch, value, g, named)
        if statistics and self.warm_start:
            self.state["last"] = d.clone()
        return value, named

    def damping_at(self, g: Tensor) -> float:
        """The damping at this gradient, flat."""
        return self.damping


def regularised_newton(
    oracle: Oracle, smoothness: float = 1.0, *, tol: float = 1e-6, max_products: int = 100
) -> Solver:
    r"""Newton's method with damping by the root of the gradient's norm: global without a line search, and superlinear near the end.

    .. math:: d = \left(\nabla^2 L + \sqrt{H |g|}\, I\right)^{-1} g

    Mishchenko 2021, arXiv:2112.02089. For convex losses each step lowers the loss if H is as large as
    :math:`|\nabla L(y) - \nabla L(x) - \nabla^2 L(x) (y - x)| \le H |y - x|^2` asks; half the Lipschitz constant of the Hessian is enough.

    Args:
        smoothness: H.
        tol: of the linear system, solved by conjugate gradients. At a direction of negative curvature the step is what was found.
        max_products: of the Hessian with vectors, at each step.
    """
    at_least("smoothness", smoothness, 0.0, above=True)
    return _Regularised(differentiable(oracle, "regularised_newton"), smoothness, tol, max_products)


@step_method(
    newton_cg,
    label="NewtonCG",
    title="Numerical Optimization",
    reference="Nocedal & Wright 2006",
    year=2006,
    section="algorithm 7.1",
    notes="Stepped with heavy-ball momentum and a rate.",
    space={"lr": log(1e-3, 1.0), "damping": log(1e-5, 1e-1), "momentum": one_minus_log(0.5, 0.99)},
)
def _newton_cg(
    lr: Hyper = 0.1,
    momentum: Hyper = 0.0,
    damping: Hyper = 1e-3,
    curvature: Literal["hessian", "gauss_newton"] = "hessian",
    max_products: int = 10,
):
    return steps(lr, momentum), lambda oracle, seed: newton_cg(
        oracle, number("damping", damping), curvature=curvature, max_products=max_products
    )


@step_method(
    regularised_newton,
    label="RegularisedNewton",
    title="Regularized Newton Method with Global O(1/k^2) Convergence",
    arxiv="2112.02089",
    year=2021,
    section="algorithm 1",
    notes="Stepped with heavy-ball momentum and a rate.",
    space={"lr": log(1e-3, 1.0), "smoothness": log(1e-3, 1e3), "momentum": one_minus_log(0.5, 0.99)},
)
def _regularised_newton(lr: Hyper = 0.1, momentum: Hyper = 0.0, smoothness: Hyper = 1.0, max_products: int = 10):
    return steps(lr, momentum), lambda oracle, seed: regularised_newton(
        oracle, number("smoothness", smoothness), tol=1e-2, max_products=max_products
    )


class _Regularised(_NewtonCG):
    def __init__(self, inner: Oracle, smoothness: float, tol: float, max_products: int) -> None:
        super().__init__(inner, 0.0, "hessian", tol, max_products, 0.0)
        self.smoothness = smoothness

    def damping_at(self, g: Tensor) -> float:
        return math.sqrt(self.smoothness * float(g.norm()))


# -- claims -----------------------------------------------------------------------------------------------------------------


class _Scalar(nn.Module):
    """One number, returned as the output, shape (1, 1)."""

    def __init__(self, x: float) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor(x, dtype=torch.float64))

    def forward(self) -> Tensor:
        return self.x.reshape(1, 1)


def _log_cosh(x: float) -> tuple[Oracle, Batch]:
    """log cosh x, whose second derivative changes by less than 0.77 a unit."""
    return of_loss(_Scalar(x), lambda model, batch: model().cosh().log().mean()), (torch.zeros(1),)


def _path(solver: Solver, batch: Batch, steps: int) -> list[float]:
    """Losses of a run with the whole step."""
    values = [float(solver.loss(solver.params, batch).detach())]
    for _ in range(steps):
        d = solver.value_and_grad(solver.params, batch, statistics=True)[1]
        with torch.no_grad():
            for n, p in solver.params.items():
                p.sub_(d[n])
        values.append(float(solver.loss(solver.params, batch).detach()))
    return values


@claim("newton_cg", "one step solves a quadratic, in at most as many products as there are parameters",
       where="Nocedal and Wright 2006, section 7.1")  # fmt: skip
def a_quadratic_in_one_step(lab):
    oracle, batch, _, centre = quadratic()
    d = newton_cg(oracle, tol=1e-12, max_products=6).value_and_grad(oracle.params, batch)[1]
    yield lab.close(flat(oracle.params).detach() - flat(d), centre)


@claim("newton_cg", "where the curvature along the gradient is negative, the step is the gradient",
       where="Nocedal and Wright 2006, algorithm 7.1")  # fmt: skip
def negative_curvature_gives_the_gradient(lab):
    oracle = of_loss(_Scalar(0.3), lambda model, batch: -model().square().sum())
    found = newton_cg(oracle).value_and_grad(oracle.params, (torch.zeros(1),))[1]
    yield lab.equal(found["x"], -0.6)


@claim("newton_cg", "near a solution, with the tolerance sqrt(|g|), gradients shrink faster than linearly",
       where="Nocedal and Wright 2006, theorem 7.2")  # fmt: skip
def superlinear(lab):
    made = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 4, generator=made).double(), torch.randint(2, (30,), generator=made).double()
    oracle = of_loss(
        nn.Linear(4, 1).double(),
        lambda model, batch: (
            nn.functional.binary_cross_entropy_with_logits(model(batch[0])[:, 0], batch[1])
            + 0.05 * sum(p.square().sum() for p in model.parameters())
        ),
    )
    solver, sizes = newton_cg(oracle), []
    for _ in range(6):
        sizes.append(float(flat(oracle.value_and_grad(oracle.params, (x, y))[1]).norm()))
        _path(solver, (x, y), 1)
    ratios = [b / a for a, b in zip(sizes, sizes[1:], strict=False) if a > 1e-7]
    yield lab.less(sizes[-1], 1e-6 * sizes[0])
    yield lab.less(ratios[-1], ratios[0] / 4)


@claim("regularised_newton", "from where Newton's method diverges every step lowers a convex loss, and the end is found",
       where="arXiv:2112.02089")  # fmt: skip
def global_convergence(lab):
    oracle, batch = _log_cosh(1.5)
    newton = _path(newton_cg(oracle, tol=0.0), batch, 2)
    yield lab.less(newton[0], newton[1])
    for start in (1.5, 4.0):
        oracle, batch = _log_cosh(start)
        values = _path(regularised_newton(oracle, smoothness=0.39), batch, 25)
        yield lab.less(max(b - a for a, b in zip(values, values[1:], strict=False)), 1e-12)
        yield lab.less(values[-1], 1e-12)


@claim("regularised_newton", "the damped system holds: (H + sqrt(smoothness |g|)) d = g", where="arXiv:2112.02089")
def regularised_system(lab):
    oracle, batch, h, centre = quadratic()
    g = h @ (flat(oracle.params).detach() - centre)
    damping = (3.0 * g.norm()).sqrt()
    d = flat(regularised_newton(oracle, 3.0, tol=1e-12).value_and_grad(oracle.params, batch)[1])
    yield lab.close(h @ d + damping * d, g)
