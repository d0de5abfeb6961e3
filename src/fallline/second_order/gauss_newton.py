r"""Exact Gauss-Newton steps, solved at the size of the batch.

.. math:: d = (J^T Q J + \lambda I)^{-1} J^T r = J^T (\lambda I + Q J J^T)^{-1} r, \qquad
    Q = \tfrac{1}{N} \nabla_f^2 \ell, \quad r = \tfrac{1}{N} \nabla_f \ell
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.core.oracle import Batch, Gradients, Oracle, of_module
from fallline.core.space import log, one_minus_log
from fallline.core.types import Hyper, Params
from fallline.curvature import ggn
from fallline.objectives.base import flat
from fallline.objectives.problems import classifier
from fallline.second_order.base import LevenbergMarquardt, Solver, levenberg_marquardt, plain
from fallline.second_order.dual import BatchJacobian
from fallline.second_order.entries import number, step_method, steps
from fallline.second_order.layers import columns, draws, output_derivatives

__all__ = ["egn"]

FITS = 2048
"""Unknowns up to which ``num_samples="fit"`` solves the exact system; beyond, it has half as many."""


def egn(
    oracle: Oracle,
    damping: float | LevenbergMarquardt = 1e-3,
    *,
    num_samples: int | Literal["fit"] | None = None,
    seed: int = 0,
) -> Solver:
    r"""Exact Gauss-Newton: the damped step of the whole matrix, by a linear system of (examples x outputs) unknowns.

    .. math:: d = J^T (\lambda I + Q J J^T)^{-1} r

    the Duncan-Guttman identity, which needs neither the matrix (parameters x parameters) nor a square root of Q; Q (block diagonal)
    and r are the derivatives of any loss by the outputs, squared, softmax or other. Korbit, Adeoye, Bemporad and Zanon 2024,
    arXiv:2405.14402. Parameters that belong to linear layers cost no Jacobian, others one row for each example and output.

    Args:
        damping: :math:`\lambda > 0`, fixed, or ``levenberg_marquardt()``.
        num_samples: in place of Q, the mean of so many :math:`v v^T` of which Q is the expectation, a random v for each example. The
            system then has (examples x num_samples) unknowns, whatever the number of outputs: no longer exact, and for ten classes
            many times as fast. ``"fit"``: exact up to 2,048 unknowns, else with as many draws as give about 1,024.
        seed: of these draws.

    optimizer = fallline.Optimizer(model, sgd(lr=1.0))
    solver = egn(of_module(model, F.cross_entropy), damping=levenberg_marquardt(1.0))
    optimizer.zero_grad(); solver.backward(batch); optimizer.step()
    """
    if (isinstance(num_samples, str) and num_samples != "fit") or (isinstance(num_samples, int) and num_samples < 1):
        raise InvalidValueError(
            f"egn() got num_samples={num_samples!r}. Expected at least 1, 'fit', or None for the exact matrix. Pass for example num_samples=1."
        )
    inner = plain(oracle, "egn")
    solver = _ExactGaussNewton(inner, damping) if num_samples is None else _Sampled(inner, damping, num_samples, seed)
    if not solver.damping > 0:
        raise InvalidValueError(
            "egn() got damping=0. Expected a number above 0, since a batch's matrix has no inverse where there are more parameters "
            "than outputs. Pass for example damping=1e-6."
        )
    return solver


@step_method(
    egn,
    label="EGN",
    title="Exact Gauss-Newton Optimization for Training Deep Neural Networks",
    arxiv="2405.14402",
    year=2024,
    section="algorithm 1",
    notes="Exact up to 2,048 unknowns (examples x outputs), else with as many draws for each example as give about 1,024. Stepped with "
    "heavy-ball momentum and a rate, in place of the paper's line search.",
    space={"lr": log(1e-3, 1.0), "damping": log(1e-5, 1e-1), "momentum": one_minus_log(0.5, 0.99)},
)
def _egn(lr: Hyper = 0.3, momentum: Hyper = 0.0, damping: Hyper = 3e-3):
    return steps(lr, momentum), lambda oracle, seed: egn(
        oracle, number("damping", damping), num_samples="fit", seed=seed
    )


@step_method(
    levenberg_marquardt,
    label="LevenbergMarquardt",
    title="An algorithm for least-squares estimation of nonlinear parameters",
    doi="10.1137/0111030",
    year=1963,
    section="the rule for damping; the numbers: Martens 2010, section 4.1",
    notes="EGN whose damping follows how well its model predicts, beginning at ``damping``.",
    space={"lr": log(1e-2, 1.0), "damping": log(1e-3, 1e1), "momentum": one_minus_log(0.5, 0.99)},
)
def _levenberg_marquardt(lr: Hyper = 0.3, momentum: Hyper = 0.0, damping: Hyper = 1.0):
    return steps(lr, momentum), lambda oracle, seed: egn(
        oracle, levenberg_marquardt(number("damping", damping)), num_samples="fit", seed=seed
    )


class _ExactGaussNewton(Solver):
    def value_and_grad(self, params: Params, batch: Batch, *, statistics: bool = False) -> tuple[Tensor, Gradients]:
        jacobian = BatchJacobian(self.inner, params, batch, statistics)
        self.gradients = jacobian.num_passes
        losses, slopes, second = output_derivatives(self.inner, jacobian.outputs, batch)
        n, k = slopes.shape
        kernel = jacobian.gram().double()
        wide = second.double() / n
        rows = kernel.view(n, k, n * k)
        system = (wide[..., None] * rows if wide.dim() == 2 else torch.bmm(wide, rows)).view(n * k, n * k)
        system.diagonal().add_(self.damping)
        y = torch.linalg.solve_ex(
            system, (slopes.double() / n).flatten()
        ).result  # NaN is left to the optimizer, which refuses it
        d = jacobian.pull(y.to(jacobian.outputs.dtype))
        value = losses.mean()
        if statistics and self.rule is not None:
            self.adapt(params, batch, value, jacobian.pull((slopes / n).flatten()), d)
        return value, d


class _Sampled(Solver):
    r"""With rows :math:`\tilde J = c V^T J`: :math:`\lambda d = g - \tilde J^T (\lambda I + \tilde J \tilde J^T)^{-1} \tilde J g`. The losses'
    gradients are one more row of each example, so that the same products give :math:`\tilde J g`."""

    def __init__(
        self, inner: Oracle, damping: float | LevenbergMarquardt, num_samples: int | Literal["fit"], seed: int
    ) -> None:
        super().__init__(inner, damping)
        self.num_samples, self.seed = num_samples, seed
        self.state["count"] = torch.zeros((), dtype=torch.int64)

    def value_and_grad(self, params: Params, batch: Batch, *, statistics: bool = False) -> tuple[Tensor, Gradients]:
        value, count = torch.zeros(()), 1.0

        def seeds(outputs: Tensor) -> Tensor:
            nonlocal value, count
            losses, slopes, second = output_derivatives(self.inner, outputs, batch)
            value = losses.mean()
            n, k = slopes.shape
            if not bool(second.isfinite().all()):
                rows, count = slopes[None], 1.0
            elif self.num_samples == "fit" and n * k <= FITS:
                rows, count = columns(second), 1.0
            else:
                num = max(FITS // (2 * n), 1) if self.num_samples == "fit" else self.num_samples
                rows, count = draws(second, num, self.seed * 1_000_003 + int(self.state["count"])), num
            return torch.cat([rows, slopes[None]])

        jacobian = BatchJacobian(self.inner, params, batch, statistics, seeds)
        self.gradients = jacobian.num_passes
        n = len(jacobian.outputs)
        k = jacobian.num_rows // n - 1
        scale, damping = (n * count) ** -0.5, self.damping
        kernel = jacobian.gram().double().view(n, k + 1, n, k + 1)
        system = scale**2 * kernel[:, :k, :, :k].reshape(n * k, n * k)
        system.diagonal().add_(damping)
        along = scale * kernel[:, :k, :, k].sum(2).flatten() / n
        y = -scale / damping * torch.linalg.solve_ex(system, along).result.view(n, k)
        d = jacobian.pull(torch.cat([y, torch.full_like(y[:, :1], 1 / (n * damping))], 1).to(jacobian.outputs.dtype))
        if statistics:
            self.state["count"] = self.state["count"] + 1
            if self.rule is not None:
                self.adapt(
                    params, batch, value, jacobian.pull(jacobian.outputs.new_tensor([0.0] * k + [1 / n]).repeat(n)), d
                )
        return value, d


# -- claims -----------------------------------------------------------------------------------------------------------------


def _dense_step(oracle: Oracle, batch: Batch, damping: float) -> Tensor:
    matrix = ggn(oracle, batch).dense()
    g = flat(oracle.value_and_grad(oracle.params, batch)[1])
    return torch.linalg.solve(matrix + damping * torch.eye(len(g), dtype=g.dtype), g)


def _regression() -> tuple[Oracle, Batch]:
    made = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 2)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=made, dtype=torch.float64) / 2)
    x, y = (torch.randn(10, n, generator=made, dtype=torch.float64) for n in (3, 2))
    return of_module(model, F.mse_loss), (x, y)


@claim(
    "egn",
    "the step equals (J'QJ + damping I)^-1 J'r with the matrix formed, to 1e-8, for softmax and squared loss",
    where="arXiv:2405.14402",
)
def egn_is_the_dense_step(lab):
    for oracle, batch in (classifier(), _regression()):
        for damping in (1.0, 1e-3, 1e-5):
            found = egn(oracle, damping).value_and_grad(oracle.params, batch)[1]
            yield lab.close(flat(found), _dense_step(oracle, batch, damping), rtol=1e-8)


@claim(
    "egn",
    "for large damping the step's direction is that of the gradient, its length |g| / damping",
    where="Marquardt 1963",
)
def large_damping_is_the_gradient(lab):
    oracle, batch = classifier()
    g = flat(oracle.value_and_grad(oracle.params, batch)[1])
    misses = []
    for damping in (1e4, 1e5):
        d = damping * flat(egn(oracle, damping).value_and_grad(oracle.params, batch)[1])
        misses.append(float((d - g).norm() / g.norm()))
    yield lab.less(misses[1], 1e-4)
    yield lab.ratio(*misses, equals=10, rtol=1e-2)


@claim(
    "egn", "a linear model under squared loss is solved in one step, as damping goes to zero", where="arXiv:2405.14402"
)
def linear_least_squares_in_one_step(lab):
    made = torch.Generator().manual_seed(0)
    x, y = (torch.randn(20, n, generator=made, dtype=torch.float64) for n in (4, 2))
    oracle = of_module(nn.Linear(4, 2, bias=False).double(), F.mse_loss)
    w = oracle.params["weight"].detach()
    best = torch.linalg.lstsq(x, y).solution.T
    misses = []
    for damping in (1e-4, 1e-6):
        d = egn(oracle, damping).value_and_grad(oracle.params, (x, y))[1]["weight"]
        misses.append(float((w - d - best).norm()))
    yield lab.less(misses[1], 1e-5 * float(best.norm()))
    yield lab.ratio(*misses, equals=100, rtol=1e-2)


@claim(
    "levenberg_marquardt",
    "on a problem of least squares without residual at the solution, adaptive damping falls and the steps converge faster than linearly",
    where="Marquardt 1963; Nocedal and Wright 2006, section 10.3",
)
def adaptive_damping_falls(lab):
    oracle, (x, y) = _regression()
    with torch.no_grad():
        y = oracle.outputs(oracle.params, (x, y))
        for p in oracle.params.values():
            p.mul_(0.8)
    solver = egn(oracle, levenberg_marquardt(1.0, factor=0.1))
    values = []
    for _ in range(14):
        values.append(float(solver.closure((x, y))()))
        with torch.no_grad():
            for p in oracle.params.values():
                p.sub_(p.grad)
    yield lab.less(solver.damping, 1e-4)
    yield lab.less(values[-1], 1e-12 * values[0])
