r"""K-FAC and E-KFAC: the curvature of each layer as a Kronecker product of what comes in and what goes back.

.. math:: F_l \approx A_l \otimes G_l, \qquad A = \mathbb{E}[a a^T], \quad G = \mathbb{E}[\delta \delta^T], \qquad
    D = (G + \tfrac{\sqrt\lambda}{\pi} I)^{-1}\, \nabla_W L\, (A + \pi \sqrt\lambda I)^{-1}
"""

from __future__ import annotations

from typing import ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from fallline.core.errors import InvalidValueError, unknown
from fallline.core.oracle import Batch, Gradients, Oracle, gradient
from fallline.core.space import log, one_minus_log
from fallline.core.types import Hyper, Params
from fallline.objectives.base import at_least
from fallline.second_order.base import Solver, eigh, finite, plain
from fallline.second_order.entries import number, step_method, steps
from fallline.second_order.layers import Layer, columns, draws, layers_of, output_derivatives, recording

__all__ = ["Kronecker", "ekfac", "factors", "kfac", "kronecker"]

K = TypeVar("K", bound="Kronecker")

KINDS = ("exact", "mc", "empirical")


def kfac(
    oracle: Oracle,
    damping: float = 1e-3,
    *,
    kind: str = "mc",
    decay: float = 0.95,
    every: int = 10,
    seed: int = 0,
) -> Solver:
    r"""Kronecker-factored natural gradient for linear and convolutional layers; other parameters keep their gradient.

    A is the mean of :math:`a a^T` over examples and positions, a with a one for the bias, G that of :math:`\delta \delta^T` over
    examples, summed over positions; :math:`\pi = \sqrt{\mathrm{tr} A / \dim A \,/\, (\mathrm{tr} G / \dim G)}` splits the damping. Martens and
    Grosse 2015, arXiv:1503.05671, sections 3 and 6.3; convolutions Grosse and Martens 2016, arXiv:1602.01407. Without their rescaling of the step
    and their momentum, for which there are the optimizer and its schedules.

    Args:
        damping: :math:`\lambda`.
        kind: of the Fisher matrix. ``"mc"``: G from a draw :math:`v` with :math:`\mathbb{E} v v^T = \nabla_f^2 \ell` for each example, which
            is that matrix for softmax and squared loss (one more backward pass); ``"exact"``: from all outputs; ``"empirical"``: from the gradient
            itself, which works with any loss.
        decay: of the running means of A and G; the first steps average all there was.
        every: the inverses are made anew at the first step and then every so many.
        seed: of the draws.
    """
    return kronecker(_KFAC, oracle, damping, kind, decay, every, seed)


def ekfac(
    oracle: Oracle,
    damping: float = 1e-3,
    *,
    kind: str = "mc",
    decay: float = 0.95,
    every: int = 10,
    seed: int = 0,
) -> Solver:
    r"""K-FAC with the right scale of every direction: second moments of gradients in the eigenbasis of A and G.

    .. math:: D = U_G \left( \frac{U_G^T \nabla_W L\, U_A}{S + \lambda} \right) U_A^T, \qquad S = \mathbb{E}[(U_G^T \nabla_W \ell\, U_A)^2]

    The nearest to F, of all matrices with this eigenbasis. The basis moves every ``every`` steps, where S begins again from K-FAC's, and S
    at each. George et al. 2018,
    arXiv:1806.03884, algorithm 1. Arguments as for ``kfac``.
    """
    return kronecker(_EKFAC, oracle, damping, kind, decay, every, seed)


def kronecker(cls: type[K], oracle: Oracle, damping: float, kind: str, decay: float, every: int, seed: int) -> K:
    """A solver of this class, its arguments and its model checked."""
    by = cls.__name__.strip("_").lower()
    if kind not in KINDS:
        raise unknown("kind of Fisher matrix", kind, KINDS)
    if every < 1:
        raise InvalidValueError(f"{by}() got every={every}. Expected at least 1. Pass for example every=10.")
    at_least("damping", damping, 0.0, above=True)
    at_least("decay", decay, 0.0, high=1.0)
    solver = cls(plain(oracle, by), damping, kind, decay, every, seed)
    if not layers_of(oracle.module, oracle.params, convolutions=True):
        raise InvalidValueError(
            f"{by}() found no linear or convolutional layer whose parameters are trained and its own. Expected at least one. Use another "
            f"method for this model, for example adamw."
        )
    return solver


_SPACE = {"lr": log(1e-3, 1.0), "damping": log(1e-5, 1e-1), "momentum": one_minus_log(0.5, 0.99)}


@step_method(
    kfac,
    label="KFAC",
    title="Optimizing Neural Networks with Kronecker-factored Approximate Curvature",
    arxiv="1503.05671",
    year=2015,
    section="sections 3 and 6.3",
    notes="Stepped with heavy-ball momentum and a rate, in place of the paper's rescaling by its quadratic model.",
    space=_SPACE,
)
def _kfac(
    lr: Hyper = 0.1,
    momentum: Hyper = 0.9,
    damping: Hyper = 1e-2,
    decay: Hyper = 0.95,
    kind: Literal["mc", "exact", "empirical"] = "mc",
    every: int = 10,
):
    return steps(lr, momentum), lambda oracle, seed: kfac(
        oracle, number("damping", damping), kind=kind, decay=number("decay", decay), every=every, seed=seed
    )


@step_method(
    ekfac,
    label="EKFAC",
    title="Fast Approximate Natural Gradient Descent in a Kronecker-factored Eigenbasis",
    arxiv="1806.03884",
    year=2018,
    section="algorithm 1",
    notes="Stepped with heavy-ball momentum and a rate.",
    space=_SPACE,
)
def _ekfac(
    lr: Hyper = 0.1,
    momentum: Hyper = 0.9,
    damping: Hyper = 1e-2,
    decay: Hyper = 0.95,
    kind: Literal["mc", "exact", "empirical"] = "mc",
    every: int = 10,
):
    return steps(lr, momentum), lambda oracle, seed: ekfac(
        oracle, number("damping", damping), kind=kind, decay=number("decay", decay), every=every, seed=seed
    )


class Kronecker(Solver):
    """Gradient, factors and running means; subclasses say what becomes of them."""

    made: ClassVar[str]  # what is kept of a factor's decomposition

    def __init__(self, inner: Oracle, damping: float, kind: str, decay: float, every: int, seed: int) -> None:
        super().__init__(inner, damping)
        self.kind, self.decay, self.every, self.seed = kind, decay, every, seed
        self.state["count"] = torch.zeros((), dtype=torch.int64)

    def value_and_grad(self, params: Params, batch: Batch, *, statistics: bool = False) -> tuple[Tensor, Gradients]:
        layers = [
            layer
            for layer in layers_of(self.module, self.inner.params, convolutions=True)
            if all(n in params for n in layer.names)
        ]
        count = int(self.state["count"])
        value, g, slopes = self._backward(params, batch, layers, statistics, count)
        if not finite(g):  # the optimizer refuses it; the averages stay as they are
            return value, g
        layers = [layer for layer in layers if layer.name in slopes]
        state = self._moved(layers, slopes, count)
        d = {n: self.rest(x) for n, x in g.items()}
        for layer in layers:
            d |= layer.split(self.direction(layer.name, layer.matrix(g), state), params)
        if statistics:
            self.state |= {**state, "count": self.state["count"] + 1}
        return value, {n: d[n] for n in params}

    def direction(self, name: str, g: Tensor, state: Params) -> Tensor:
        """A layer's step from its gradient as a matrix."""
        raise NotImplementedError

    def rest(self, g: Tensor) -> Tensor:
        """The step of a parameter outside of these layers."""
        return g

    def decomposed(self, name: str, state: Params) -> Gradients:
        """What is made of the averages every so many steps."""
        raise NotImplementedError

    def _moved(self, layers: list[Layer], slopes: dict[str, Tensor], count: int) -> Gradients:
        """The state after this batch, the same on all ranks."""
        state = dict(self.state)
        share = max(1 / (count + 1), 1 - self.decay)
        for layer in layers:
            rows = layer.rows.to(slopes[layer.name].dtype)
            for key, x in self.mean_over_ranks(factors(layer.name, rows, slopes[layer.name])).items():
                state[key] = state[key].to(x).lerp(x, share) if key in state else x
            if count % self.every == 0 or f"{layer.name}.a_{self.made}" not in state:
                state |= self.decomposed(layer.name, state)
            self.refine(layer.name, state, rows, slopes[layer.name], share)
        return state

    def refine(self, name: str, state: Gradients, rows: Tensor, slopes: Tensor, share: float) -> None:
        """Move what is averaged in the basis of the decomposition, in place."""

    def _backward(
        self, params: Params, batch: Batch, layers: list[Layer], statistics: bool, count: int
    ) -> tuple[Tensor, Gradients, dict[str, Tensor]]:
        """Loss, gradient, and the derivatives of draws by the layers' outputs, each (draws, examples, positions, fan_out)."""
        own = {n: p.detach().requires_grad_() for n, p in params.items()}
        self.gradients = 1
        with torch.enable_grad(), recording(layers):
            if self.kind == "empirical":
                value = self.inner.loss(own, batch, statistics=statistics)
            else:
                outputs = self.inner.outputs(own, batch, statistics=statistics)
                value = self.inner.criterion(outputs, batch).mean()
        ends = {layer.name: layer.outputs[0] for layer in layers if len(layer.inputs) == 1}
        n = self.inner.num_examples(batch)
        with torch.enable_grad():
            if self.kind == "empirical":
                found = gradient(value, {**own, **{f"output of {name}": z for name, z in ends.items()}})
                slopes = {name: n * found.pop(f"output of {name}")[None] for name in ends}
            else:
                found = gradient(value, own, keep=True)
                if not finite(found):
                    return value.detach(), self.mean_over_ranks(found), {}
                seeds = self._seeds(outputs, batch, count)
                self.gradients += len(seeds)
                pulled = torch.autograd.grad(
                    outputs, list(ends.values()), seeds, is_grads_batched=True, allow_unused=True
                )
                slopes = {
                    name: z.new_zeros(len(seeds), *z.shape) if x is None else x
                    for (name, z), x in zip(ends.items(), pulled, strict=True)
                }
        by_name = {layer.name: layer for layer in layers}
        return value.detach(), self.mean_over_ranks(found), {k: by_name[k].positions(x) for k, x in slopes.items()}

    def _seeds(self, outputs: Tensor, batch: Batch, count: int) -> Tensor:
        """Columns v with a sum (or an expectation) of v v^T that is the second derivative of each example's loss, (draws, *outputs)."""
        _, _, second = output_derivatives(self.inner, outputs, batch)
        if self.kind == "exact":
            return columns(second).reshape(-1, *outputs.shape)
        return draws(second, 1, self.seed * 1_000_003 + count).reshape(1, *outputs.shape)


class _KFAC(Kronecker):
    made = "inverse"

    def decomposed(self, name: str, state: Params) -> Gradients:
        a, g = state[f"{name}.a"], state[f"{name}.g"]
        ratio = (a.trace() / len(a)) / (g.trace() / len(g))
        pi = torch.where(ratio.isfinite() & (ratio > 0), ratio, 1.0).sqrt()
        root = self.damping**0.5
        return {f"{name}.a_inverse": _inverse(a, pi * root), f"{name}.g_inverse": _inverse(g, root / pi)}

    def direction(self, name: str, g: Tensor, state: Params) -> Tensor:
        return state[f"{name}.g_inverse"].to(g) @ g @ state[f"{name}.a_inverse"].to(g)


class _EKFAC(Kronecker):
    made = "basis"

    def decomposed(self, name: str, state: Params) -> Gradients:
        (va, ua), (vg, ug) = (eigh(state[f"{name}.{k}"]) for k in "ag")
        return {
            f"{name}.a_basis": ua,
            f"{name}.g_basis": ug,
            f"{name}.s": torch.outer(vg.clamp(min=0), va.clamp(min=0)),
        }

    def refine(self, name: str, state: Gradients, rows: Tensor, slopes: Tensor, share: float) -> None:
        a, g = rows @ state[f"{name}.a_basis"], slopes @ state[f"{name}.g_basis"]
        n, t = rows.shape[:2]
        if t == 1:
            s = g[:, :, 0].square().sum(0).T @ a[:, 0].square() / n
        else:
            s = torch.stack([(x.mT @ a).square().sum(0) for x in g]).sum(0) / n
        key = f"{name}.s"
        state[key] = state[key].lerp(self.mean_over_ranks({key: s})[key], share)

    def direction(self, name: str, g: Tensor, state: Params) -> Tensor:
        ua, ug = state[f"{name}.a_basis"].to(g), state[f"{name}.g_basis"].to(g)
        return ug @ (ug.T @ g @ ua / (state[f"{name}.s"].to(g) + self.damping)) @ ua.T


def factors(name: str, rows: Tensor, slopes: Tensor) -> Gradients:
    """A and G of rows (examples, positions, fan_in) and slopes (draws, examples, positions, fan_out)."""
    a, g = rows.flatten(0, 1), slopes.flatten(0, 2)
    return {f"{name}.a": a.T @ a / len(a), f"{name}.g": g.T @ g / len(rows)}


def _inverse(a: Tensor, damping: Tensor) -> Tensor:
    lower, failed = torch.linalg.cholesky_ex(a + damping * torch.eye(len(a), dtype=a.dtype, device=a.device))
    if not int(failed):
        return torch.cholesky_inverse(lower)
    sizes, vectors = eigh(a)  # the damping is less than what rounding makes of zero
    return (vectors / (sizes.clamp(min=0) + damping)) @ vectors.T
