r"""Generalised Gauss-Newton and Fisher matrices: a curvature of the loss in the outputs, carried to the parameters.

.. math:: A = \frac{1}{N} \sum_i J_i^T M_i J_i, \qquad J_i = \partial f(\theta, x_i) / \partial \theta

========================  =========================================================================
generalised Gauss-Newton  M = Hessian of the loss by the outputs
Fisher, exact             M = covariance of the score by the outputs, under the model's own labels
Fisher, Monte-Carlo       the same from drawn labels
Fisher, empirical         M = u u^T, u the loss's gradient by the outputs, at the data's labels
========================  =========================================================================

Martens, arXiv:1412.1193, compares them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from fallline.core.errors import InvalidValueError, unknown
from fallline.core.oracle import Batch, Oracle
from fallline.core.types import Params
from fallline.curvature.batches import Data, own_params, weighted
from fallline.curvature.graphs import Graph, OutputGraph, by_row
from fallline.curvature.operator import Operator
from fallline.curvature.space import Space

__all__ = ["LIKELIHOODS", "Middle", "fisher", "ggn", "sandwich", "score"]

LIKELIHOODS = ("categorical", "bernoulli", "gaussian")
KINDS = ("exact", "mc", "empirical")

Middle: TypeAlias = Callable[[Tensor, Batch], Callable[[Tensor], Tensor]]
"""From a batch's outputs to the product with its M / N, rows (k, *outputs) to (k, *outputs)."""


def ggn(oracle: Oracle, data: Data, params: Params | None = None, *, keep: bool | None = None) -> Operator:
    r"""The generalised Gauss-Newton matrix :math:`\frac{1}{N} \sum_i J_i^T (\nabla_f^2 \ell_i) J_i` (Schraudolph 2002).

    It is the Hessian without the curvature of the model, positive semi-definite for convex losses, and equal to the Hessian of a
    linear model. Arguments as for ``hessian``.
    """

    def middle(outputs: Tensor, batch: Batch) -> Callable[[Tensor], Tensor]:
        with torch.enable_grad():
            z = outputs.detach().requires_grad_()
            (slope,) = torch.autograd.grad(oracle.criterion(z, batch).mean(), z, create_graph=True)
        return lambda dz: by_row([slope], [z], [dz]).reshape(dz.shape)

    return sandwich(oracle, data, params, middle, keep)


def fisher(
    oracle: Oracle,
    data: Data,
    params: Params | None = None,
    *,
    kind: str = "exact",
    likelihood: str = "categorical",
    num_samples: int = 1,
    seed: int = 0,
) -> Operator:
    r"""The Fisher information :math:`\frac{1}{N} \sum_i \mathbb{E}_y [s_i s_i^T]` of the model's own distribution,
    :math:`s_i = \nabla_\theta \log p(y \mid x_i)`.

    Args:
        kind: ``"exact"``; ``"mc"``, with labels drawn from the model, unbiased; or ``"empirical"``, with the data's labels and the
            oracle's own loss, which is another matrix (Kunstner et al., arXiv:1905.12558).
        likelihood: what the outputs are the parameters of: ``"categorical"`` (logits in the last dimension, as for cross-entropy),
            ``"bernoulli"`` (a logit each) or ``"gaussian"`` (a mean each, unit variance: half the squared error). Positions of a
            sequence count as examples. ``"empirical"`` needs none.
        num_samples: labels drawn for each example by ``"mc"``.
        seed: of these labels; the operator is fixed once it is built.
    """
    if kind not in KINDS:
        raise unknown("kind of Fisher matrix", kind, KINDS)
    if likelihood not in LIKELIHOODS:
        raise unknown("likelihood", likelihood, LIKELIHOODS)
    if num_samples < 1:
        raise InvalidValueError(
            f"fisher() got num_samples={num_samples}. Expected at least 1. Take 1, or more to be closer to the exact one."
        )
    if kind == "exact":
        return sandwich(oracle, data, params, lambda z, batch: _covariance_of_score(z, likelihood), None)
    if kind == "mc":
        generators: dict[int, int] = {}  # the same labels whenever a batch's graph is made anew

        def drawn(z: Tensor, batch: Batch) -> Callable[[Tensor], Tensor]:
            place = generators.setdefault(id(batch), len(generators))
            random = torch.Generator(z.device).manual_seed(seed * 1_000_003 + place)
            u = torch.stack([_drawn_score(z, likelihood, random) for _ in range(num_samples)])
            return lambda dz: _projected(u, dz, likelihood) / (num_samples * _count(z, likelihood))

        return sandwich(oracle, data, params, drawn, None)

    def empirical(z: Tensor, batch: Batch) -> Callable[[Tensor], Tensor]:
        u = score(oracle, z, batch)
        return lambda dz: u * _per_example(u, dz) / len(u)

    return sandwich(oracle, data, params, empirical, None)


def sandwich(oracle: Oracle, data: Data, params: Params | None, middle: Middle, keep: bool | None) -> Operator:
    """The operator with this M, over all batches."""
    batches, point = weighted(oracle, data), own_params(oracle, params)
    keep = len(batches) == 1 if keep is None else keep
    space = Space.of(point)

    def made(batch: Batch) -> tuple[OutputGraph, Callable[[Tensor], Tensor]]:
        graph = OutputGraph(oracle, point, batch)
        return graph, middle(graph.outputs, batch)

    graphs = [(weight, Graph(lambda batch=batch: made(batch), keep)) for weight, batch in batches]  # type: ignore[misc]

    def product(vectors: Tensor) -> Tensor:
        found = torch.zeros_like(vectors)
        for weight, graph in graphs:
            with graph.open() as (jacobian, between):
                found.add_(jacobian.pull(between(jacobian.push(vectors))), alpha=weight)
        return found

    return Operator(space, product)


def score(oracle: Oracle, outputs: Tensor, batch: Batch) -> Tensor:
    """The gradient of every example's loss by its own outputs, shape as the outputs."""
    with torch.enable_grad():
        z = outputs.detach().requires_grad_()
        (u,) = torch.autograd.grad(oracle.criterion(z, batch).sum(), z)
    return u


def _per_example(u: Tensor, dz: Tensor) -> Tensor:
    """u_i . dz_i for rows dz, shape (k, examples, 1, ...) to multiply outputs with."""
    products = (u * dz).flatten(2).sum(2) if dz.dim() > 2 else u * dz
    return products.reshape(*products.shape, *[1] * (dz.dim() - 2))


def _count(z: Tensor, likelihood: str) -> int:
    """Over how many distributions the mean is taken: positions of categorical ones, examples of the others."""
    return z.numel() // z.shape[-1] if likelihood == "categorical" else z.shape[0]


def _covariance_of_score(z: Tensor, likelihood: str) -> Callable[[Tensor], Tensor]:
    n = _count(z, likelihood)
    if likelihood == "categorical":
        p = z.softmax(-1)
        return lambda dz: (p * dz - p * (p * dz).sum(-1, keepdim=True)) / n
    variance = z.sigmoid() * z.sigmoid().neg().add(1) if likelihood == "bernoulli" else torch.ones_like(z)
    return lambda dz: variance * dz / n


def _drawn_score(z: Tensor, likelihood: str, random: torch.Generator) -> Tensor:
    if likelihood == "categorical":
        p = z.softmax(-1)
        drawn = torch.multinomial(p.reshape(-1, p.shape[-1]), 1, generator=random).reshape(p.shape[:-1])
        return p - torch.nn.functional.one_hot(drawn, p.shape[-1])
    if likelihood == "bernoulli":
        return z.sigmoid() - torch.bernoulli(z.sigmoid(), generator=random)
    return torch.randn(z.shape, generator=random, dtype=z.dtype, device=z.device)


def _projected(u: Tensor, dz: Tensor, likelihood: str) -> Tensor:
    """sum_s u_s (u_s . dz), the product within a distribution: u (samples, *outputs), dz (k, *outputs)."""
    if likelihood == "categorical":
        return (u * (u * dz[:, None]).sum(-1, keepdim=True)).sum(1)
    inner = (u * dz[:, None]).flatten(3).sum(3) if dz.dim() > 2 else u * dz[:, None]
    return (u * inner.reshape(*inner.shape, *[1] * (dz.dim() + 1 - inner.dim()))).sum(1)
