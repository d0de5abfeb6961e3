r"""The Hessian of the loss, as an operator on named tensors.

.. math:: H = \nabla^2 L(\theta), \qquad L = \text{mean loss over all examples}
"""

from __future__ import annotations

import torch
from torch import Tensor

from fallline.core.errors import unknown
from fallline.core.oracle import Batch, Oracle
from fallline.core.types import Params
from fallline.curvature.batches import Data, deterministic, own_params, weighted
from fallline.curvature.graphs import GradientGraph, Graph
from fallline.curvature.operator import Operator, Rows
from fallline.curvature.space import Space

__all__ = ["hessian"]

ROUTES = ("reverse", "forward")


def hessian(
    oracle: Oracle, data: Data, params: Params | None = None, *, keep: bool | None = None, route: str = "reverse"
) -> Operator:
    r"""The Hessian :math:`\nabla^2 L(\theta)` of the oracle's mean loss over the data, as a symmetric operator.

    The model is in evaluation mode meanwhile: dropout is off, batch normalisation uses its running statistics. Mode and buffers
    are as before afterwards.

    Args:
        oracle: the loss; only its ``loss`` is differentiated, so that of SAM and its like is the plain loss's Hessian.
        data: one batch or an iterable of batches; a loader is read once.
        params: where: the oracle's parameters by default. Some of them give the block of those alone, at less cost.
        keep: hold the gradient's graph from product to product: 1.5 gradients for each instead of 2.5, for the memory of one backward
            pass a batch. By default for one batch, not for many.
        route: ``"reverse"`` (double backward) or ``"forward"`` (forward over reverse, without a graph): slower on all that was
            measured, but it needs less memory, and works where an operation has no second derivative in reverse.

    The operator stays at the parameters as they are now, of which it has a copy: build another one after a step.
    """
    if route not in ROUTES:
        raise unknown("route", route, ROUTES)
    batches, point = weighted(oracle, data), own_params(oracle, params)
    keep = len(batches) == 1 if keep is None else keep
    space = Space.of(point)
    if route == "forward":
        parts = [(w, _forward(oracle, point, space, batch)) for w, batch in batches]
    else:
        parts = [(w, _reverse(oracle, point, batch, keep)) for w, batch in batches]

    def product(vectors: Tensor) -> Tensor:
        found = torch.zeros_like(vectors)
        for weight, part in parts:
            found = found.add_(part(vectors), alpha=weight)
        return found

    return Operator(space, product if len(parts) > 1 else parts[0][1])


def _reverse(oracle: Oracle, point: Params, batch: Batch, keep: bool) -> Rows:
    graph = Graph(lambda: GradientGraph(oracle, point, batch), keep)

    def product(vectors: Tensor) -> Tensor:
        with graph.open() as opened:
            return opened.products(vectors)

    return product


def _forward(oracle: Oracle, point: dict[str, Tensor], space: Space, batch: Batch) -> Rows:
    def one(v: Tensor) -> Tensor:
        tangents = {name: x.contiguous() for name, x in space.unflatten(v).items()}
        gradient = torch.func.grad(lambda params: oracle.loss(params, batch))
        return space.flatten(torch.func.jvp(gradient, (dict(point),), (tangents,))[1])

    def product(vectors: Tensor) -> Tensor:
        with deterministic(oracle.module):
            return torch.stack([one(v) for v in vectors])

    return product
