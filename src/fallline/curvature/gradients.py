r"""Operators between parameters, examples and outputs: gradients of examples, their covariance and Gram matrix, Jacobian and tangent
kernel.

.. math::
    G_{i \cdot} = \nabla_\theta \ell_i, \qquad \Sigma = \frac{1}{N} \sum_i (g_i - \bar g)(g_i - \bar g)^T, \qquad
    K_{ij} = \frac{1}{N} g_i \cdot g_j, \qquad \Theta = J J^T
"""

from __future__ import annotations

import torch
from torch import Tensor

from fallline.core.errors import InvalidValueError
from fallline.core.oracle import Batch, Oracle
from fallline.core.types import Params
from fallline.curvature.batches import Data, own_params, weighted
from fallline.curvature.gauss_newton import score
from fallline.curvature.graphs import Graph, OutputGraph
from fallline.curvature.operator import Operator
from fallline.curvature.space import Space

__all__ = ["example_gradients", "gradient_covariance", "gram", "jacobian", "ntk"]


def jacobian(oracle: Oracle, data: Data, params: Params | None = None, *, keep: bool | None = None) -> Operator:
    """The Jacobian of all outputs by the parameters: from the parameters' space to ``{"outputs": (examples, ...)}``."""
    return _stacked(oracle, data, params, "outputs", keep)


def example_gradients(
    oracle: Oracle, data: Data, params: Params | None = None, *, keep: bool | None = None
) -> Operator:
    r"""The matrix :math:`G` whose rows are the gradients of the examples: parameters to ``{"examples": (examples,)}``.

    ``G @ v`` has the slope of every example's loss along v, ``G.T @ a`` the gradient with weights a. No gradient of an example is
    formed.
    """
    return _stacked(oracle, data, params, "examples", keep)


def gram(
    oracle: Oracle, data: Data, params: Params | None = None, *, centred: bool = False, keep: bool | None = None
) -> Operator:
    r"""The Gram matrix of the examples' gradients, :math:`K = G G^T / N`, with the nonzero eigenvalues of the empirical Fisher; those of
    the covariance if ``centred``."""
    g = _centred(example_gradients(oracle, data, params, keep=keep), centred)
    return (g @ g.T / g.shape[0]).symmetric()


def gradient_covariance(
    oracle: Oracle, data: Data, params: Params | None = None, *, unbiased: bool = True, keep: bool | None = None
) -> Operator:
    r"""The covariance :math:`\Sigma` of the gradients of single examples; that of a batch's mean gradient is :math:`\Sigma / B`.

    ``unbiased`` divides by N - 1 in place of N."""
    g = _centred(example_gradients(oracle, data, params, keep=keep), True)
    n = g.shape[0]
    if unbiased and n < 2:
        raise InvalidValueError(
            f"gradient_covariance() got {n} example. Expected at least two, to see how their gradients differ. Pass more data."
        )
    return (g.T @ g / (n - 1 if unbiased else n)).symmetric()


def ntk(oracle: Oracle, data: Data, params: Params | None = None, *, keep: bool | None = None) -> Operator:
    r"""The empirical neural tangent kernel :math:`\Theta = J J^T` on ``{"outputs": (examples, ...)}`` (Jacot et al.,
    arXiv:1806.07572): how the outputs move together under gradient flow."""
    j = jacobian(oracle, data, params, keep=keep)
    return (j @ j.T).symmetric()


def _centred(g: Operator, centred: bool) -> Operator:
    """The rows minus their mean."""
    if not centred:
        return g

    def less_mean(v: Tensor) -> Tensor:
        return v - v.mean(-1, keepdim=True)

    turned = g.T
    return Operator(g.domain, lambda v: less_mean(g.rows(v)), g.codomain, lambda a: turned.rows(less_mean(a)))


def _stacked(oracle: Oracle, data: Data, params: Params | None, what: str, keep: bool | None) -> Operator:
    batches, point = weighted(oracle, data), own_params(oracle, params)
    keep = len(batches) == 1 if keep is None else keep
    space = Space.of(point)
    sizes = [oracle.num_examples(batch) for _, batch in batches]

    def made(batch: Batch) -> tuple[OutputGraph, Tensor | None]:
        graph = OutputGraph(oracle, point, batch)
        return graph, score(oracle, graph.outputs, batch) if what == "examples" else None

    graphs = [Graph(lambda batch=batch: made(batch), keep) for _, batch in batches]  # type: ignore[misc]
    shape: tuple[int, ...] = ()
    if what == "outputs":
        with graphs[0].open() as (graph, _):
            shape = tuple(graph.outputs.shape[1:])
    codomain = Space({what: (sum(sizes), *shape)}, space.dtype, space.device)

    def forth(vectors: Tensor) -> Tensor:
        found = []
        for opened in graphs:
            with opened.open() as (graph, u):
                moved = graph.push(vectors)
                found.append(
                    moved.flatten(1) if u is None else (u * moved).flatten(2).sum(2) if u.dim() > 1 else u * moved
                )
        return torch.cat(found, -1)

    def back(seeds: Tensor) -> Tensor:
        total = seeds.new_zeros(seeds.shape[0], space.dim)
        for opened, part in zip(graphs, seeds.reshape(len(seeds), sum(sizes), -1).split(sizes, 1), strict=True):
            with opened.open() as (graph, u):
                shaped = _against(part, graph.outputs if u is None else u, u is None)
                total += graph.pull(shaped)
        return total

    return Operator(space, forth, codomain, back)


def _against(part: Tensor, like: Tensor, whole: bool) -> Tensor:
    """Weights of examples (k, n, 1) times what belongs to each, or seeds of outputs (k, n, rest) in their shape."""
    if whole:
        return part.reshape(len(part), *like.shape)
    return part.reshape(len(part), len(like), *[1] * (like.dim() - 1)) * like
