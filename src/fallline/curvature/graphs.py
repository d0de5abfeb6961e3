"""Graphs that are built once and differentiated often: of the gradient, for Hessians, and of the outputs, for Jacobians.

A Hessian-vector product needs the gradient as a function of the parameters. Its graph does not depend on the vector, so a Lanczos
run builds it once: a product then costs 1.5 gradients instead of 2.5 (double backward) or 3 (forward over reverse).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import Tensor

from fallline.core.oracle import Batch, Oracle
from fallline.core.types import Params
from fallline.curvature.batches import deterministic
from fallline.curvature.space import Space

__all__ = ["GradientGraph", "Graph", "OutputGraph", "by_row"]

T = TypeVar("T")

VECTORISED = 2**14
"""Entries of inputs and outputs up to which products are vectorised on a processor. Sixteen Hessian products, one thread, loop and
vectorised: 8.3 and 2.2 ms with 314 parameters, 32 and 24 with 6,110, but 58 and 75 with 22,210."""


class Graph(Generic[T]):
    """A graph that is made when it is first needed, and kept, or made anew each time."""

    def __init__(self, build: Callable[[], T], keep: bool) -> None:
        self._build, self._keep = build, keep
        self._held: T | None = None

    @contextmanager
    def open(self) -> Iterator[T]:
        """The graph, for as long as it is used."""
        held = self._held if self._held is not None else self._build()
        if self._keep:
            self._held = held
        yield held


class GradientGraph:
    r"""The gradient of one batch's loss and how it depends on the parameters: ``products(V)`` are Hessian-vector products."""

    def __init__(self, oracle: Oracle, params: Params, batch: Batch) -> None:
        self._space = Space.of(params)
        with deterministic(oracle.module), torch.enable_grad():
            self._params = {name: p.detach().requires_grad_() for name, p in params.items()}
            loss = oracle.loss(self._params, batch)
            self._gradients = _grad([loss], list(self._params.values()), None, keep=True)
        self.gradient = self._space.flatten({n: g.detach() for n, g in zip(params, self._gradients, strict=True)})

    def products(self, vectors: Tensor) -> Tensor:
        """Products with the rows, shape (k, parameters) both."""
        seeds = list(self._space.unflatten(vectors).values())
        return by_row(self._gradients, list(self._params.values()), seeds)


class OutputGraph:
    r"""The outputs of one batch as a function of the parameters: ``push`` is :math:`J v`, ``pull`` :math:`J^T u`, on rows."""

    def __init__(self, oracle: Oracle, params: Params, batch: Batch) -> None:
        self._space = Space.of(params)
        with deterministic(oracle.module), torch.enable_grad():
            self._params = {name: p.detach().requires_grad_() for name, p in params.items()}
            self._outputs = oracle.outputs(self._params, batch)
        self.outputs = self._outputs.detach()
        self._pulled: tuple[Tensor, Sequence[Tensor]] | None = None

    def push(self, vectors: Tensor) -> Tensor:
        """Shape (k, parameters) to (k, *outputs). What pull does is linear in u; its derivative by u is J."""
        if self._pulled is None:
            with torch.enable_grad():
                u = torch.zeros_like(self.outputs, requires_grad=True)
                self._pulled = u, _grad([self._outputs], list(self._params.values()), [u], keep=True)
        u, pulled = self._pulled
        found = by_row(pulled, [u], list(self._space.unflatten(vectors).values()))
        return found.reshape(-1, *self.outputs.shape)

    def pull(self, seeds: Tensor) -> Tensor:
        """Shape (k, *outputs) to (k, parameters)."""
        return by_row([self._outputs], list(self._params.values()), [seeds])


def by_row(outputs: Sequence[Tensor], inputs: Sequence[Tensor], seeds: Sequence[Tensor]) -> Tensor:
    """Vector-Jacobian products for every row of the seeds, shape (k, entries of inputs): one by one, or vectorised where that is
    faster: on a GPU, and for small networks."""
    k = seeds[0].shape[0]
    size = sum(x.numel() for x in (*outputs, *inputs))
    if k > 1 and (size <= VECTORISED or seeds[0].is_cuda):
        found = _grad(outputs, inputs, seeds, batched=True)
        return torch.cat([x.reshape(k, -1) for x in found], -1)
    rows = [_grad(outputs, inputs, [seed[i] for seed in seeds]) for i in range(k)]
    return torch.stack([torch.cat([x.reshape(-1) for x in row]) for row in rows])


def _grad(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    seeds: Sequence[Tensor] | None,
    keep: bool = False,
    batched: bool = False,
) -> list[Tensor]:
    """``torch.autograd.grad`` on a graph that stays, with zeros where nothing depends on an input."""
    lead = (seeds[0].shape[0],) if batched and seeds is not None else ()
    live = [i for i, x in enumerate(outputs) if x.requires_grad]
    if not live:
        return [x.new_zeros(*lead, *x.shape) for x in inputs]
    found = torch.autograd.grad(
        [outputs[i] for i in live],
        inputs,
        None if seeds is None else [seeds[i] for i in live],
        retain_graph=True,
        create_graph=keep,
        allow_unused=True,
        is_grads_batched=batched,
    )
    return [x.new_zeros(*lead, *x.shape) if g is None else g for x, g in zip(inputs, found, strict=True)]
