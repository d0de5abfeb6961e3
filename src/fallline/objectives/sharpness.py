r"""Flat minima: the gradient is taken not at the parameters but at a point near them, where the loss is higher.

.. math:: \nabla L(w + \epsilon), \qquad \epsilon = \rho\, g / \lVert g \rVert \ \text{(SAM)}, \quad
    \rho\, T^2 g / \lVert T g \rVert \ \text{(ASAM)}, \quad \rho\, g \ \text{(USAM)}, \quad
    \rho\, g / \lVert \nabla f \rVert \ \text{(DNSAM)}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fallline.core.claims import claim
from fallline.core.evaluate import RandomState
from fallline.core.oracle import Batch, Gradients, Oracle
from fallline.core.random import normal_like
from fallline.core.rounding import stream_key
from fallline.core.types import Params
from fallline.objectives.base import Objective, at_least, dot, flat, moved, norm, replayed
from fallline.objectives.full_batch import accumulated
from fallline.objectives.problems import classifier, quadratic

__all__ = ["Ascent", "asam", "average_direction_sam", "dnsam", "gsam", "sam", "usam"]

Perturbation = Callable[[Params, Gradients], Gradients]
"""Parameters and gradient to the step that leads to where the second gradient is taken, for ``rho`` = 1."""


class Ascent(Objective):
    """The gradient at ``w + rho * step(w, g)``; the loss is that at w. ``rho`` may be set between steps, as by a schedule."""

    changes = "gradient"

    def __init__(self, inner: Oracle, rho: float, step: Perturbation) -> None:
        super().__init__(inner)
        self.rho, self.step = at_least("rho", rho, 0.0), step

    def value_and_grad(self, params: Params, batch: Batch, *, statistics: bool = False) -> tuple[Tensor, Gradients]:
        start = RandomState(params.values())
        value, g = self.inner.value_and_grad(params, batch, statistics=statistics)
        near = moved(params, self.step(params, g), self.rho)
        with replayed(params, start):
            h = self.inner.value_and_grad(near, batch)[1]
        return value, self.join(g, h)

    def join(self, g: Gradients, h: Gradients) -> Gradients:
        """What the optimizer is given, of the gradients at the parameters and at the point near them."""
        return h


def sam(oracle: Oracle, rho: float = 0.05) -> Ascent:
    r"""Sharpness-aware minimisation: the gradient at the worst point of a ball around the parameters, to first order.

    .. math:: \nabla L(w + \rho\, g / \lVert g \rVert), \qquad g = \nabla L(w)

    Foret et al. 2021, arXiv:2010.01412, eq. 2 and 3.
    """
    return Ascent(oracle, rho, _unit)


def usam(oracle: Oracle, rho: float = 0.05) -> Ascent:
    r"""SAM without the normalisation, :math:`\nabla L(w + \rho g)` (Andriushchenko and Flammarion 2022, arXiv:2206.06232)."""
    return Ascent(oracle, rho, lambda params, g: g)


def asam(oracle: Oracle, rho: float = 0.5, eta: float = 0.01) -> Ascent:
    r"""Adaptive SAM: the ball is stretched by the size of each weight, so that rescaling weights changes nothing.

    .. math:: \nabla L\left(w + \rho\, T^2 g / \lVert T g \rVert\right), \qquad T = |w| + \eta

    T is 1 for parameters of one dimension or none: biases and normalisation. Kwon et al. 2021, arXiv:2102.11600.
    """
    eta = at_least("eta", eta, 0.0)

    def step(params: Params, g: Gradients) -> Gradients:
        size = {n: p.detach().abs() + eta if p.dim() > 1 else torch.ones_like(p) for n, p in params.items()}
        scaled = {n: size[n] * x for n, x in g.items()}
        return {n: size[n] * x for n, x in _unit(params, scaled).items()}

    return Ascent(oracle, rho, step)


def dnsam(oracle: Oracle, batches: Sequence[Batch], rho: float = 0.05) -> Ascent:
    r"""SAM that divides by the norm of the gradient of all data, :math:`\nabla L(w + \rho g / \lVert \nabla f(w) \rVert)`.

    ``batches`` are all data, gone through at every step: a tool of theory, in which noise enters g alone (Compagnoni et al.
    2023, arXiv:2301.08203).
    """
    everything = accumulated(oracle)

    def step(params: Params, g: Gradients) -> Gradients:
        with replayed(params, RandomState(params.values())):
            size = norm(everything.value_and_grad(params, batches)[1])
        return {n: _over(x, size) for n, x in g.items()}

    return Ascent(oracle, rho, step)


def gsam(oracle: Oracle, rho: float = 0.05, alpha: float = 0.1) -> Ascent:
    r"""Surrogate-gap SAM: SAM's gradient h, less the part of g that is orthogonal to it, which lowers the gap
    :math:`L(w + \epsilon) - L(w)` without raising :math:`L(w + \epsilon)`.

    .. math:: h - \alpha\, g_\perp, \qquad g_\perp = g - \frac{\langle g, h \rangle}{\lVert h \rVert^2} h

    Zhuang et al. 2022, arXiv:2203.08065, algorithm 1; there ``rho`` follows the learning rate.
    """
    return _Gap(oracle, rho, at_least("alpha", alpha, 0.0))


class _Gap(Ascent):
    def __init__(self, inner: Oracle, rho: float, alpha: float) -> None:
        super().__init__(inner, rho, _unit)
        self.alpha = alpha

    def join(self, g: Gradients, h: Gradients) -> Gradients:
        along = _over(dot(g, h), dot(h, h))
        return {n: h[n] - self.alpha * (g[n] - along * h[n]) for n in g}


def average_direction_sam(oracle: Oracle, rho: float = 0.05, seed: int = 0) -> Objective:
    r"""The gradient at a random point of the sphere around the parameters, which makes the mean over directions small.

    .. math:: \nabla L(w + \rho\, z / \lVert z \rVert), \quad z \sim N(0, I), \qquad
        \mathbb{E} L(w + \rho z / \lVert z \rVert) \approx L(w) + \frac{\rho^2}{2 d} \mathrm{tr}\, \nabla^2 L(w)

    The average-direction sharpness of Wen et al. 2023, arXiv:2211.05729. Costs one more forward pass, for the loss.
    """
    return _RandomDirection(oracle, at_least("rho", rho, 0.0), seed)


class _RandomDirection(Objective):
    changes = "gradient"

    def __init__(self, inner: Oracle, rho: float, seed: int) -> None:
        super().__init__(inner)
        self.rho, self.seed = rho, seed
        self.state = {"count": torch.zeros((), dtype=torch.int64)}

    def value_and_grad(self, params: Params, batch: Batch, *, statistics: bool = False) -> tuple[Tensor, Gradients]:
        start = RandomState(params.values())
        with torch.no_grad():
            value = self.inner.loss(params, batch, statistics=statistics)
        t = int(self.state["count"])
        keys = {n: torch.tensor(stream_key(self.seed, n), device=p.device) for n, p in params.items()}
        away = _unit(params, {n: normal_like(p.detach(), keys[n], t) for n, p in params.items()})
        with replayed(params, start):
            gradients = self.inner.value_and_grad(moved(params, away, self.rho), batch)[1]
        if statistics:
            self.state["count"] += 1
        return value, gradients


def _unit(params: Params, g: Gradients) -> Gradients:
    size = norm(g)
    return {n: _over(x, size) for n, x in g.items()}


def _over(x: Tensor, size: Tensor) -> Tensor:
    """x / size, and zero where both are zero."""
    return x / torch.where(size == 0, 1.0, size)


# -- claims -----------------------------------------------------------------------------------------------------------------


@claim("sam", "on a quadratic, the gradient is H (I + rho H / ||g||) (w - c)", where="arXiv:2010.01412, eq. 2 and 3")
def sam_closed_form(lab):
    oracle, batch, h, c = quadratic()
    g = h @ (flat(oracle.params).detach() - c)
    found = sam(oracle, rho=0.3).value_and_grad(oracle.params, batch)[1]
    yield lab.equal(flat(found), g + 0.3 * h @ g / g.norm())


@claim("sam", "the ascent step is the worst point of the ball to first order: no other of that length has a larger g . e",
       where="arXiv:2010.01412, eq. 2")  # fmt: skip
def sam_is_the_worst(lab):
    oracle, batch = classifier()
    g = oracle.value_and_grad(oracle.params, batch)[1]
    others = torch.randn(1000, flat(g).numel(), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    best = (others @ flat(g) / others.norm(dim=1)).max()
    yield lab.less(float(best), float(dot(g, _unit(oracle.params, g))))
    yield lab.equal(norm(_unit(oracle.params, g)), 1.0)


@claim(
    "usam", "on a quadratic, the gradient is that of L + rho ||grad L||^2 / 2, whatever rho", where="arXiv:2301.08203"
)
def usam_closed_form(lab):
    oracle, batch, h, c = quadratic()
    g = h @ (flat(oracle.params).detach() - c)
    yield lab.equal(flat(usam(oracle, rho=0.3).value_and_grad(oracle.params, batch)[1]), g + 0.3 * h @ g)


@claim(
    "dnsam",
    "with all data in the batch it is SAM; a batch's step is rho ||g|| / ||grad f|| long",
    where="arXiv:2301.08203",
)
def dnsam_is_sam_on_all_data(lab):
    oracle, batch, h, _ = quadratic()
    parts = [(batch[0][:2],), (batch[0][2:],)]
    found = dnsam(oracle, parts, rho=0.3).value_and_grad(oracle.params, batch)[1]
    yield lab.equal(flat(found), flat(sam(oracle, rho=0.3).value_and_grad(oracle.params, batch)[1]))
    g, full = (flat(oracle.value_and_grad(oracle.params, b)[1]) for b in (parts[0], batch))
    found = dnsam(oracle, parts, rho=0.3).value_and_grad(oracle.params, parts[0])[1]
    yield lab.equal(flat(found), g + 0.3 * h @ g / full.norm())


@claim("asam", "rescaling weights without changing the function leaves the loss at the perturbed point the same",
       where="arXiv:2102.11600")  # fmt: skip
def asam_is_invariant(lab):
    def worst(scale: float, around: Callable[..., Ascent], **hypers: float) -> Tensor:
        oracle, batch = classifier(relu=True)
        first, _, last = oracle.module.children()
        with torch.no_grad():
            for layer, factor in ((first, scale), (last, 1 / scale)):  # ReLU scales what comes in, if there is no bias
                layer.get_parameter("bias").requires_grad_(False).zero_()
                layer.get_parameter("weight").mul_(factor)
        params = oracle.params
        g = oracle.value_and_grad(params, batch)[1]
        return oracle.loss(moved(params, around(oracle, **hypers).step(params, g), 0.2), batch).detach()

    yield lab.close(worst(10.0, asam, eta=0.0), worst(1.0, asam, eta=0.0))
    yield lab.less(0.01, float((worst(10.0, sam) - worst(1.0, sam)).abs()))


@claim("gsam", "to first order L(w + e) falls as under SAM, and the gap falls faster, by alpha ||g_orthogonal||^2",
       where="arXiv:2203.08065, algorithm 1")  # fmt: skip
def gsam_is_orthogonal(lab):
    oracle, batch = classifier()
    plain, gap = (
        flat(o.value_and_grad(oracle.params, batch)[1]) for o in (sam(oracle, 0.5), gsam(oracle, 0.5, alpha=0.7))
    )
    g = flat(oracle.value_and_grad(oracle.params, batch)[1])
    yield lab.equal(gap @ plain, plain @ plain)
    yield lab.less(1e-3, float((gap - plain).norm()))
    orthogonal = g - (g @ plain) / (plain @ plain) * plain
    yield lab.close((gap - plain) @ (plain - g), 0.7 * orthogonal @ orthogonal)


@claim("average_direction_sam", "the mean loss over an orthonormal basis and its opposite exceeds L by rho^2 tr(H) / (2 d) on a quadratic",
       where="arXiv:2211.05729")  # fmt: skip
def average_direction_is_the_trace(lab):
    oracle, batch, h, _ = quadratic()
    names, sizes = list(oracle.params), [p.numel() for p in oracle.params.values()]
    basis = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    around = [
        oracle.loss(moved(oracle.params, dict(zip(names, z.split(sizes), strict=True)), 0.3), batch).detach()
        for z in torch.cat([basis, -basis])
    ]
    rise = torch.stack(around).mean() - oracle.loss(oracle.params, batch).detach()
    yield lab.close(rise, 0.3**2 * h.trace() / 10)
    found = average_direction_sam(oracle, 0.3).value_and_grad(oracle.params, batch)[1]
    away = torch.linalg.solve(h, flat(found) - flat(oracle.value_and_grad(oracle.params, batch)[1]))
    yield lab.close(away.norm(), 0.3)
