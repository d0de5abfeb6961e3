"""Many copies of one model: parameters and buffers stacked [run, ...], the losses and gradients of all runs in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map

from fallline.core.types import Params
from fallline.lab.population.operations import Operations
from fallline.lab.population.traced import TRACE_FROM, traced
from fallline.lab.run import _fingerprint
from fallline.lab.streams import batch_indices, generator, seed_of, seeded
from fallline.tasks import Batch, Task, Tensors, Windows, evaluate, fetch

__all__ = ["Alone", "Stack", "Survey", "full_precision", "survey"]

DTYPES = (torch.float32, torch.float64)

AGREE = {torch.float32: 1e-3, torch.float64: 1e-9}
"""Relative difference up to which a gradient of the stack is that of the model by itself, rounded another way."""


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Convolutions in float32 throughout: on a GPU torch has them round their factors to ten bits (TF32)."""
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


class Alone(Exception):
    """These runs cannot share a population, or would gain nothing by it; the text says why in a few words."""


@dataclass(frozen=True)
class Survey:
    """What one gradient of one run shows: memory, and the dropout calls in their order."""

    activation_bytes: int
    parameter_bytes: int
    dropouts: tuple[tuple[Tensor, float], ...]  # (like the input, the probability)


def survey(task: Task, seed: int) -> Survey:
    """Take one gradient of one run. Raises Alone for a model that no population can hold."""
    model = made(task, seed)
    for name, p in model.named_parameters():
        if p.dtype not in DTYPES or p.layout is not torch.strided:
            raise Alone(f"the parameter {name!r} is {p.dtype}, not float32 or float64")
    batch = batch_of(task, seed, 1)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        if x.layout is torch.strided and x.untyped_storage().data_ptr() not in own:
            saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        before = torch.get_rng_state()
        with Operations() as operations:
            loss = task.loss(model, batch)
        if not torch.equal(before, torch.get_rng_state()):
            raise Alone("the model draws random numbers otherwise than by dropout")
        loss.backward()
    for name, p in model.named_parameters():
        if p.requires_grad and p.grad is None:
            raise Alone(f"the parameter {name!r} takes no part in the loss")
    held = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return Survey(sum(saved.values()), held, tuple(operations.seen))


def made(task: Task, seed: int) -> nn.Module:
    """The model as a run with this seed begins."""
    with seeded(seed, "init"):
        return task.model()


def batch_of(task: Task, seed: int, t: int) -> Batch:
    """What a run with this seed sees at step t."""
    batch = fetch(task.train, batch_indices(seed, t, task.batch_size, len(task.train)))
    return batch if task.augment is None else task.augment(batch, generator(seed, "noise", t))


class _Call(nn.Module):
    """``function(model, batch)`` as the forward pass of a module, so that any function of the model sees swapped parameters."""

    def __init__(self, model: nn.Module, function: Callable[[Any, Any], Tensor]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, batch: Batch) -> Tensor:
        return self.function(self.model, batch)


class Stack:
    """The models of some runs, stacked in the order of their seeds."""

    def __init__(self, task: Task, seeds: Sequence[int], found: Survey, steps: int = 0) -> None:
        self.task, self.seeds, self._dropouts = task, list(seeds), found.dropouts
        models = {seed: made(task, seed) for seed in dict.fromkeys(seeds)}
        self.fingerprints = {seed: _fingerprint(model) for seed, model in models.items()}
        self.model = models[seeds[0]]
        self._witnesses = {0: self.model, len(seeds) - 1: models[seeds[-1]]}
        rows = [models[seed] for seed in seeds]
        self.device = next(self.model.parameters()).device
        forms = {tuple((n, p.shape, p.requires_grad) for n, p in m.named_parameters()) for m in models.values()}
        if len(forms) > 1:
            raise Alone("models of different seeds have different parameters")
        parameters = _stacked([dict(m.named_parameters()) for m in rows])
        learning = {n for n, p in self.model.named_parameters() if p.requires_grad}
        self.params: dict[str, Tensor] = {n: x for n, x in parameters.items() if n in learning}
        self.fixed = {n: x for n, x in parameters.items() if n not in learning}
        self.fixed.update(_stacked([dict(m.named_buffers()) for m in rows]))
        self._loss, self._metric = _Call(self.model, task.loss), _Call(self.model, task.metric.fn)
        self._steps, self._tried = steps, False
        self._graph: Callable[..., Any] | None = None  # of the gradients, once there is one
        self._together: bool | None = None  # whether the metric, too, goes for all runs at once

    def keep(self, rows: Tensor) -> None:
        """Only these runs, in this order."""
        self.seeds = [self.seeds[i] for i in rows.tolist()]
        rows, self._graph, self._tried = rows.to(self.device), None, False
        self.params = {n: x.index_select(0, rows) for n, x in self.params.items()}
        self.fixed = {n: x.index_select(0, rows) for n, x in self.fixed.items()}

    def gradients(self, t: int) -> tuple[Tensor, dict[str, Tensor]]:
        """(losses, shape (runs,), and gradients by name) at step t, each run on its own batch; buffers are updated."""
        batch, dim = self._batch(t)
        masks = self._masks(t)
        function = partial(self._found, dim)
        if t > 1 and not self._tried:
            self._tried = True
            left = self._steps - t
            self._graph = self._as_graph("gradients", function, (self.params, self.fixed, batch, masks), left)
        losses, found = (self._graph or function)(self.params, self.fixed, batch, masks)
        return losses, dict(zip(self.params, found, strict=True))

    def _as_graph(
        self, what: str, function: Callable[..., Any], arguments: tuple[Any, ...], steps: int
    ) -> Callable[..., Any] | None:
        """The graph of a function of the runs' tensors, where it pays for so many steps and can be had."""
        if self.device.type != "cpu" or steps < TRACE_FROM:
            return None
        shapes = tuple((x.shape, x.dtype) for x in tree_leaves(arguments[2:]) if isinstance(x, Tensor))
        return traced(function, arguments, self.model, self.task, (what, self.seeds[0], len(self.seeds), shapes))

    def _found(
        self, dim: int | None, params: Params, fixed: Params, batch: Batch, masks: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Losses and gradients, a function of tensors alone apart from what it leaves in the buffers."""
        own = {n: p.detach().requires_grad_() for n, p in params.items()}
        dims = tree_map(lambda x: dim if isinstance(x, Tensor) else None, batch)

        def loss(params: Params, fixed: Params, batch: Batch, masks: Sequence[Tensor]) -> Tensor:
            with Operations(masks):
                return _at(self._loss, params, fixed, batch)

        # Of the fused kernels for attention on a GPU, some refuse the strides that vmap gives them.
        plain = sdpa_kernel(SDPBackend.MATH) if self.device.type == "cuda" else nullcontext()
        with torch.enable_grad(), plain:
            losses = vmap(loss, in_dims=(0, 0, dims, 0))(own, fixed, batch, masks)
            # Every loss depends on its own row alone, so the gradient of the sum holds every run's own.
            found = torch.autograd.grad(losses.sum(), list(own.values()))
        return losses.detach(), [g.contiguous() for g in found]

    def check(self, losses: Tensor, gradients: Mapping[str, Tensor]) -> None:
        """Raise Alone unless the first and the last run's first gradients are those of their models by themselves."""
        for row, model in self._witnesses.items():
            seed = self.seeds[row]
            # On a GPU a model by itself draws its dropout there; those of a population come from the CPU's streams.
            own_masks = self.device.type == "cpu"
            drawn = nullcontext() if own_masks else Operations([m[row] for m in self._masks(1)], together=False)
            with torch.random.fork_rng(devices=[]), torch.enable_grad(), drawn, full_precision(self.device):
                torch.default_generator.manual_seed(seed_of(seed, "dropout", 1))
                model.zero_grad()
                loss = self.task.loss(model, batch_of(self.task, seed, 1))
                loss.backward()
            alone = [
                p.grad if p.grad is not None else torch.zeros_like(p)
                for n, p in model.named_parameters()
                if n in self.params
            ]
            ours = torch.cat([gradients[n][row].flatten() for n in self.params] + [losses[row].reshape(1)])
            theirs = torch.cat([*(g.flatten() for g in alone), loss.detach().reshape(1)])
            finite = ours.isfinite()
            apart = float(torch.where(finite, ours - theirs, 0.0).norm())
            size = float(torch.where(finite, theirs, 0.0).norm())
            if not torch.equal(finite, theirs.isfinite()) or apart > AGREE[ours.dtype] * size:
                raise Alone(
                    f"the model by itself has other gradients than among others (of length {size:.3g}, apart by {apart:.3g})"
                )
        self._witnesses = {}

    def evaluate(self, rows: Sequence[int]) -> list[float]:
        """The metric of these runs on the whole validation set, in evaluation mode."""
        if self._together is not False:
            try:
                found = self._metrics()
            except Exception:  # whatever a metric does that vmap cannot: each run by itself, then
                self._together = False
        if self._together is None:
            first = self._metric_alone(rows[0])
            same = abs(first - found[rows[0]]) <= 1e-4 * abs(first) + 1e-9 or first != first
            self._together = same
        return [found[row] if self._together else self._metric_alone(row) for row in rows]

    def _metrics(self) -> list[float]:
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        count = len(self.task.valid)
        totals = [0.0] * len(self.seeds)

        def value(params: Params, fixed: Params, batch: Batch) -> Tensor:
            with Operations([]):
                return _at(self._metric, params, fixed, batch)

        metric = vmap(value, in_dims=(0, 0, None))
        try:
            with torch.no_grad():
                for indices in torch.split(torch.arange(count), 2 * self.task.batch_size):
                    batch = fetch(self.task.valid, indices)
                    known = self._as_graph("metric", metric, (self.params, self.fixed, batch), self._steps) or metric
                    values = known(self.params, self.fixed, batch).tolist()
                    totals = [total + value * len(indices) for total, value in zip(totals, values, strict=True)]
        finally:
            for module, mode in modes:
                module.training = mode
        return [total / count for total in totals]

    def _metric_alone(self, row: int) -> float:
        with torch.no_grad():
            for name, x in [*self.model.named_parameters(), *self.model.named_buffers()]:
                x.copy_((self.params if name in self.params else self.fixed)[name][row])
        return evaluate(self.task, self.model)

    def _batch(self, t: int) -> tuple[Batch, int | None]:
        """What the runs see at step t, and the dimension of runs: none where all see the same."""
        task, distinct = self.task, list(dict.fromkeys(self.seeds))
        if len(distinct) == 1:
            return batch_of(task, distinct[0], t), None
        if task.augment is None and isinstance(task.train, Tensors | Windows):
            order = [batch_indices(seed, t, task.batch_size, len(task.train)) for seed in distinct]
            together = fetch(task.train, torch.cat(order))
            batches = tree_map(lambda x: x.unflatten(0, (len(distinct), -1)), together)
        else:
            several = [batch_of(task, seed, t) for seed in distinct]
            if not all(isinstance(x, Tensor) for x in tree_leaves(several)):
                raise Alone("batches hold something that is no tensor")
            batches = tree_map(lambda *xs: torch.stack(xs), *several)
        return tree_map(lambda x: self._by_run(x, distinct), batches), 0

    def _masks(self, t: int) -> list[Tensor]:
        distinct = list(dict.fromkeys(self.seeds))
        drawn: list[list[Tensor]] = []
        for seed in distinct if self._dropouts else []:
            random = generator(seed, "dropout", t)
            kept = [
                torch.empty_like(x, device="cpu").bernoulli_(1 - p, generator=random).div_(1 - p)
                for x, p in self._dropouts
            ]
            drawn.append([mask.to(self.device) for mask in kept])
        return [self._by_run(torch.stack(masks), distinct) for masks in zip(*drawn, strict=True)]

    def _by_run(self, x: Tensor, distinct: Sequence[int]) -> Tensor:
        """Rows for seeds -> rows for runs."""
        if len(distinct) == len(self.seeds):
            return x
        return x.index_select(0, torch.tensor([distinct.index(seed) for seed in self.seeds]).to(x.device))


def _stacked(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([row[name].detach() for row in rows]) for name in rows[0]}


def _at(call: _Call, params: Params, fixed: Params, batch: Batch) -> Tensor:
    swapped = {f"model.{name}": x for name, x in (*params.items(), *fixed.items())}
    return functional_call(call, swapped, (batch,))
