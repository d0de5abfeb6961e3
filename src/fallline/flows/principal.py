r"""The principal flow: a flow that gradient descent follows exactly on quadratics, stable or not; and rates from drift (DAL).

.. math:: \dot\theta = \sum_i \alpha(h \lambda_i)\, (\nabla E^T u_i)\, u_i, \qquad \alpha(x) = \frac{\log(1 - x)}{x}

with eigenpairs of the Hessian (Rosca et al., arXiv:2302.01952). Gradient flow has :math:`\alpha = -1` and never leaves a minimum. Here the real part
of alpha is negative below x = 2 and positive above, where descent diverges; beyond x = 1 alpha is complex, and descent oscillates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.flows.descent import START, descend, gradient_flow, small_network
from fallline.flows.fields import Field, Loss, gradient, hvp, top_eigenpairs
from fallline.flows.solvers import solve

__all__ = [
    "dal_path",
    "dal_rate",
    "principal_coefficients",
    "principal_flow",
    "principal_path",
    "stability_coefficients",
]

FLOOR = -100.0
"""Where alpha is cut off near x = 1, at which it is minus infinity: descent is at the minimum after one step."""


def principal_coefficients(x: Tensor) -> Tensor:
    r""":math:`\alpha(x) = \log(1 - x) / x`, complex: the imaginary part is :math:`\pi / x` beyond 1 (principal branch); -1 at 0.

    The real part is -1.386, -inf, -0.462, 0.045, 0.231 at x = 0.5, 1, 1.5, 2.1, 3, and 0 at 2.
    """
    x = torch.as_tensor(x, dtype=torch.float64)
    near = x.abs() < 1e-12
    safe = torch.where(near, torch.ones_like(x), x)
    real = torch.where(x < 1, torch.log1p(-x.clamp(max=1.0)), torch.log((x - 1).clamp(min=0.0))) / safe
    real = torch.where(near, -torch.ones_like(x), real)
    return torch.complex(real, torch.where(x > 1, torch.pi / safe, torch.zeros_like(x)))


def principal_flow(loss: Loss, lr: float, k: int | None = None) -> Field:
    r"""The real part of the principal flow. With ``k`` only the k largest eigenvalues are treated so, and the rest by
    :math:`-g - \frac h2 H g`, its first terms. Near :math:`h \lambda = 1` alpha is cut off at -100."""
    slope = gradient(loss)

    def field(theta: Tensor) -> Tensor:
        g = slope(theta)
        values, vectors = top_eigenpairs(loss, theta, k)
        along = vectors.T @ g
        alpha = principal_coefficients(lr * values).real.clamp(min=FLOOR)
        if k is None:
            return vectors @ (alpha * along)
        rest = -g - lr / 2 * hvp(loss, theta, g)
        return rest + vectors @ ((alpha + 1 + lr / 2 * values) * along)

    return field


def principal_path(hessian: Tensor, start: Tensor, lr: float, times: Tensor) -> Tensor:
    r"""The principal flow of :math:`\frac12 \theta^T H \theta` in closed form, complex, shape (times, d):
    :math:`\theta(t) = \sum_i (1 - h \lambda_i)^{t / h} (\theta_0^T u_i) u_i`. At multiples of ``lr`` it is gradient descent."""
    values, vectors = torch.linalg.eigh(hessian)
    rates = torch.complex((1 - lr * values), torch.zeros_like(values)).log()
    parts = torch.exp(times[:, None] / lr * rates) * (vectors.T @ start)
    return parts @ vectors.T.to(parts.dtype)


def stability_coefficients(loss: Loss, theta: Tensor, lr: float, k: int | None = None) -> tuple[Tensor, Tensor]:
    r"""How fast the loss changes along each of the k leading eigenvectors, and alpha there: (:math:`\mathrm{Re}\,\alpha_i\, (g^T u_i)^2`,
    :math:`\alpha_i`), each of shape (k,).

    The sum of the first, over all of them, is :math:`dE/dt` along the principal flow. A positive one is a direction in which descent climbs.
    """
    values, vectors = top_eigenpairs(loss, theta, k)
    alpha = principal_coefficients(lr * values)
    return alpha.real * (vectors.T @ gradient(loss)(theta)).square(), alpha


def dal_rate(loss: Loss, theta: Tensor, power: float = 1.0, most: float = 5.0) -> float:
    r"""Drift adjusted learning rate, :math:`h_p = 2 / (\|H g\| / \|g\|)^p`, at most ``most`` (arXiv:2302.01952, DAL-p).

    The drift of a step is about :math:`\frac{h^2}{2} \|H g\|`; power 1 is 2 over the curvature along the gradient, smaller powers are milder.
    """
    if power <= 0:
        raise InvalidValueError(
            f"dal_rate() got power={power}. Expected a number above 0. Pass 1, or 0.5 for a milder rule."
        )
    g = gradient(loss)(theta)
    drift = float(hvp(loss, theta, g).norm() / g.norm().clamp(min=1e-300))
    return min(most, 2 / drift**power) if drift > 0 else most


def dal_path(loss: Loss, start: Tensor, steps: int, power: float = 1.0, most: float = 5.0) -> tuple[Tensor, Tensor]:
    """Gradient descent at the rates of ``dal_rate``: points, shape (steps + 1, d), and the rates, shape (steps,)."""
    points, rates, slope = [start], [], gradient(loss)
    for _ in range(steps):
        rates.append(dal_rate(loss, points[-1], power, most))
        points.append(points[-1] - rates[-1] * slope(points[-1]))
    return torch.stack(points), torch.tensor(rates, dtype=start.dtype)


# -- claims -------------------------------------------------------------------------------------------------------------

CURVATURES = torch.tensor([[3.0, 0.4, 0.1], [0.4, 1.2, -0.3], [0.1, -0.3, 0.2]], dtype=torch.float64)
POINT = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


@claim(
    "principal flow",
    "on a quadratic it is gradient descent, at every rate, stable, oscillating or divergent; gradient flow is not",
    where="arXiv:2302.01952, the quadratic case",
)
def exact_on_quadratics(lab):
    top = float(torch.linalg.eigvalsh(CURVATURES)[-1])
    for x in (0.4, 1.0001, 1.6, 2.5):
        lr, n = x / top, 7
        end = descend(lambda w: w @ CURVATURES @ w / 2, POINT, lr, n)
        found = principal_path(CURVATURES, POINT, lr, torch.tensor([n * lr], dtype=torch.float64))[0]
        yield lab.close(found.real, end, rtol=1e-10)
        yield lab.less(float(found.imag.abs().max()), 1e-9 * float(end.norm()))
        flow = torch.linalg.matrix_exp(-n * lr * CURVATURES) @ POINT
        yield lab.less(0.02 * float(end.norm()), float((flow - end).norm()))


@claim(
    "principal flow",
    "its coefficients say where descent is stable: real and negative below h lambda = 1, complex with a negative real part to 2, "
    "positive beyond",
    where="arXiv:2302.01952, stability analysis",
)
def signs(lab):
    alpha = principal_coefficients(torch.tensor([0.5, 0.99, 1.5, 1.99, 2.0, 2.01, 3.0], dtype=torch.float64))
    yield lab.equal(alpha.real.sign(), torch.tensor([-1, -1, -1, -1, 0, 1, 1], dtype=torch.float64))
    yield lab.equal((alpha.imag > 0).double(), torch.tensor([0, 0, 1, 1, 1, 1, 1], dtype=torch.float64))


@claim("principal flow", "it is nearer to gradient descent than gradient flow is", where="arXiv:2302.01952")
def nearer(lab):
    lr = 0.2
    end = descend(small_network, START, lr, 5)
    principal, plain = (
        float((solve(flow, START, 1.0, 10).end - end).norm())
        for flow in (principal_flow(small_network, lr), gradient_flow(small_network))
    )
    yield lab.less(4 * principal, plain)


@claim(
    "gradient descent",
    "on a quadratic it approaches below h lambda = 1, oscillates between 1 and 2, and diverges beyond 2",
    where="arXiv:2302.01952, section 2; classical",
)
def three_regimes(lab):
    for x, factor in ((0.5, 0.5), (1.5, -0.5), (2.5, -1.5)):
        w = descend(lambda w: 0.5 * w.square().sum(), torch.ones(1, dtype=torch.float64), x, 5)
        yield lab.equal(w, factor**5)


@claim(
    "DAL",
    "it trains stably where gradient descent at the median of its rates diverges",
    where="arXiv:2302.01952, DAL",
)
def stable_where_descent_diverges(lab):
    sharp = lambda w: small_network(3 * w)  # noqa: E731  curvatures nine times as large
    points, rates = dal_path(sharp, START, 80, power=1.0)
    yield lab.less(max(float(sharp(w)) for w in points[1:]), float(sharp(START)))
    yield lab.less(float(sharp(points[-1])), 0.05 * float(sharp(START)))
    yield lab.less(1e6, float(sharp(descend(sharp, START, float(rates.median()), 80))))
