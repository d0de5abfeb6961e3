"""The learning rates worth trying: from the smallest that makes progress to the edge of divergence, both told from noise.

A range test raises the rate from step to step and reads a recommendation off the curve. The rate of the sharpest fall, or a tenth
of the best one, may be decades off, and where noise moves the loss more than a step does it is random. So this one
is asked only for what it can answer: a few short probes, each from the same start at a rate that stays, say which rates diverge, and
which are too small to be worth a run. What is best between them only training to the end of the schedule tells (``find_rate``).
"""

from __future__ import annotations

import copy
import math
import random
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor, nn

from fallline.core.errors import InvalidTypeError, InvalidValueError, NotFiniteError
from fallline.core.optimizer import Optimizer
from fallline.core.schedule import Schedule

__all__ = ["Bracket", "Loop", "bracket_of", "find_bracket"]

BatchT = TypeVar("BatchT")

STEPS, NUM_LOSSES, FEWEST_LOSSES, NUM_PROBES = 30, 16, 4, 3
PER_DECADE = 4  # rates that the edge is told apart by
LOWEST, HIGHEST = 1e-12, 1e6  # rates at which the search ends
CHANCE = 1e-3  # of taking noise for a change, in one probe
WORTHWHILE = 0.1  # of the best probe's progress: what a rate must make to belong to the bracket
HOPELESS = 1e3  # a loss this many times the first one and its noise ends a probe


@dataclass(frozen=True)
class Bracket:
    """What the probes say. Rates are those of the optimizer's first group; the others kept their ratio to it.

    ``low``: the smallest probed rate with at least a tenth of the progress of the best one. ``edge``: the edge of divergence, the median of
    ``edges``, one for each probe; None where nothing diverged. ``loss`` and ``noise``: mean and standard deviation over batches at
    the start. ``unclear``: why the probes cannot tell, or "" if they can; ``low`` and ``high`` are None then.
    ``gradient_evaluations`` and ``loss_evaluations`` are of batches.
    """

    low: float | None
    high: float | None
    edges: tuple[float, ...]
    loss: float
    noise: float
    gradient_evaluations: int
    loss_evaluations: int
    unclear: str = ""

    @property
    def edge(self) -> float | None:
        """The median of the probes' edges."""
        return statistics.median(self.edges) if self.edges else None


def find_bracket(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[BatchT], Tensor],
    batches: Iterable[BatchT],
    *,
    num_probes: int = NUM_PROBES,
) -> Bracket:
    """Bracket the learning rate of your own loop, and leave everything as it was.

    Args:
        model: the model as it is now, which is where every probe starts.
        optimizer: any torch optimizer. All groups' rates are multiplied by one factor, so that their ratios stay.
        loss: the loss of the model on a batch, a scalar: ``lambda batch: F.mse_loss(model(batch[0]), batch[1])``.
        batches: a DataLoader or a list of batches, of which at most 32 are used, in a new order in every probe.
        num_probes: orders in which the edge is looked for.

    Afterwards parameters, gradients, buffers, the optimizer's state and groups, the random states of torch, numpy and Python, and the generators of
    a DataLoader are what they were before, to the bit. Hooks on the optimizer's steps run as in training, and an optimizer of ours goes on
    counting the steps that it refused.

    Raises:
        TypeError, ValueError: for an iterator, which cannot be put back; fewer than four batches; a rate that is not positive, or that
            a schedule sets; and a loss that is not finite at the start.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        >>> batches = [torch.randn(8, 3) for _ in range(8)]
        >>> bracket = find_bracket(model, optimizer, lambda x: (model(x)[:, 0] - x.sum(1)).square().mean(), batches)
        >>> 0.1 < bracket.edge < 2
        True
    """
    _check(optimizer, batches, num_probes)
    with _untouched(model, optimizer, batches):
        taken = list(islice(iter(batches), STEPS + 2))
        if len(taken) < FEWEST_LOSSES:
            raise InvalidValueError(
                f"find_bracket() got {len(taken)} batches. It needs {FEWEST_LOSSES} or more to tell progress from noise. "
                f"Give smaller batches, or more of them."
            )
        loops = [_user_loop(model, optimizer, loss, taken, seed) for seed in range(num_probes)]
        return bracket_of(loops)


@dataclass
class Loop:
    """Training that can be put back: ``step(t)`` takes step t (from 1) and gives its loss and the gradients it took; ``losses()`` are
    those of fixed batches, the same noise in each call."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: Callable[[int], tuple[float, int]]
    losses: Callable[[], list[float]]
    before: list[float] = field(default_factory=list)
    gradients: int = 0
    evaluations: int = 0

    def __post_init__(self) -> None:
        self._start = _Start(self.model, self.optimizer)
        self.before = self._losses()
        self._start.restore()
        if not all(math.isfinite(x) for x in self.before):
            raise InvalidValueError(
                "The loss is not finite before the first step. Expected a finite one. Look for NaN in the data, or log(0)."
            )

    @property
    def rate(self) -> float:
        """The first group's rate at the start."""
        return self._start.rate

    @property
    def noise(self) -> float:
        """The standard deviation of the loss over batches at the start."""
        return statistics.stdev(self.before)

    def change(self, factor: float) -> float:
        """How the loss changes in STEPS steps at ``factor`` times the rates: 0 if within noise, inf if the probe diverged."""
        try:
            return self._change(factor)
        finally:
            self._start.restore()

    def _change(self, factor: float) -> float:
        self._start.scale(factor)
        first = statistics.fmean(self.before)
        limit = HOPELESS * (abs(first) + self.noise)
        try:
            for t in range(1, STEPS + 1):
                value, gradients = self.step(t)
                self.gradients += gradients
                if not math.isfinite(value) or abs(value) > limit > 0:
                    return math.inf
        except NotFiniteError:
            return math.inf
        after = self._losses()
        if not all(math.isfinite(x) for x in after):
            return math.inf
        changes = [y - x for x, y in zip(self.before, after, strict=True)]  # paired: most of the batches' noise cancels
        mean, count = statistics.fmean(changes), len(changes)
        error = float(student.ppf(1 - CHANCE, count - 1)) * statistics.stdev(changes) / math.sqrt(count)
        return mean if abs(mean) > max(error, 0.01 * self.noise, 1e-6 * abs(first)) else 0.0

    def _losses(self) -> list[float]:
        found = self.losses()
        self.evaluations += len(found)
        return found


def bracket_of(loops: Sequence[Loop]) -> Bracket:
    """The bracket from one loop for each probe; they may share a model."""
    first = loops[0]
    at: dict[int, float] = {}

    def change(k: int) -> float:
        if k not in at:
            at[k] = first.change(_factor(k))
        return at[k]

    def rate(k: float) -> float:
        return first.rate * _factor(k)

    def answer(low: int | None, high: int | None, edges: Sequence[int], unclear: str = "") -> Bracket:
        return Bracket(
            low=None if low is None else rate(low),
            high=None if high is None else rate(high),
            edges=tuple(rate(k + 0.5) for k in edges),
            loss=statistics.fmean(first.before),
            noise=first.noise,
            gradient_evaluations=sum(loop.gradients for loop in loops),
            loss_evaluations=sum(loop.evaluations for loop in loops),
            unclear=unclear,
        )

    lowest, highest = (math.floor(PER_DECADE * math.log10(end / first.rate)) for end in (LOWEST, HIGHEST))
    tried = f"from {LOWEST:g} to {HIGHEST:g}"
    last = _last_stable(lambda k: change(k) <= 0, 0, lowest, highest)
    if last is None:
        return answer(None, None, [], f"the loss rises at every rate {tried}")
    if last >= highest:
        moving = [k for k in at if at[k] < 0]
        if not moving:
            return answer(None, None, [], f"the loss does not move beyond its noise at any rate {tried}")
        return answer(min(moving), max(moving), [], "")
    low = _lowest(change, last, lowest)
    if low is None:
        return answer(None, None, [], "at no rate below the edge does the loss fall by more than its noise")
    edges = [last]
    for loop in loops[1:]:
        k = _last_stable(partial(_is_stable, loop), edges[-1], lowest, highest, stride=1)
        edges += [] if k is None or k >= highest else [k]
    return answer(low, last, edges)


def _factor(k: float) -> float:
    return float(10 ** (k / PER_DECADE))


def _is_stable(loop: Loop, k: int) -> bool:
    return loop.change(_factor(k)) <= 0


def _last_stable(
    stable: Callable[[int], bool], k: int, lowest: int, highest: int, stride: int = PER_DECADE
) -> int | None:
    """The largest stable k before one that is not, by strides and then halves of one; None or at least ``highest`` at the ends."""
    if stable(k):
        while k < highest and stable(k + stride):
            k += stride
        if k >= highest:
            return k
        low, high = k, k + stride
    else:
        k -= stride
        while k >= lowest and not stable(k):
            k -= stride
        if k < lowest:
            return None
        low, high = k, k + stride
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if stable(middle) else (low, middle)
    return low


def _lowest(change: Callable[[int], float], last: int, lowest: int) -> int | None:
    """The smallest k, in half decades below ``last``, with a worthwhile part of the best progress seen."""
    best, low = 0.0, None
    for k in range(last, lowest - 1, -PER_DECADE // 2):
        progress = -change(k)
        if progress > 0 and progress >= WORTHWHILE * best:
            best, low = max(best, progress), k
        elif best > 0 or k < last - 3 * PER_DECADE:  # too small, or nothing moves for three decades
            break
    return low


# -- putting things back ----------------------------------------------------------------------------------------------------


class _Start:
    """Copies of a model, its gradients, its buffers and its optimizer, and putting them back into the same tensors."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        own = [p for group in optimizer.param_groups for p in group["params"]]
        tensors = {id(x): x for x in [*model.parameters(), *model.buffers(), *own]}
        self._tensors = [(x, x.detach().clone(), None if x.grad is None else x.grad.clone()) for x in tensors.values()]
        self._state = {p: copy.deepcopy(dict(state)) for p, state in optimizer.state.items()}
        self._groups = [
            copy.deepcopy({k: v for k, v in group.items() if k != "params"}) for group in optimizer.param_groups
        ]

    @property
    def rate(self) -> float:
        return float(self._groups[0]["lr"])

    @torch.no_grad()
    def restore(self) -> None:
        for x, value, gradient in self._tensors:
            x.copy_(value)
            if gradient is None:
                x.grad = None
            elif x.grad is None:
                x.grad = gradient.clone()
            else:
                x.grad.copy_(gradient)
        for p in [p for p in self.optimizer.state if p not in self._state]:
            del self.optimizer.state[p]
        for p, state in self._state.items():
            _put(self.optimizer.state[p], state)
        for group, saved in zip(self.optimizer.param_groups, self._groups, strict=True):
            _put(group, saved, keep=("params",))

    def scale(self, factor: float) -> None:
        for group, saved in zip(self.optimizer.param_groups, self._groups, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].copy_(factor * saved["lr"])
            else:
                group["lr"] = factor * saved["lr"]


def _put(into: dict[str, Any], saved: dict[str, Any], keep: Sequence[str] = ()) -> None:
    for key in [key for key in into if key not in saved and key not in keep]:
        del into[key]
    for key, value in saved.items():
        here = into.get(key)
        same = isinstance(here, Tensor) and isinstance(value, Tensor) and here.shape == value.shape
        if same and here is not None and here.dtype == value.dtype:
            here.copy_(value)  # others may hold this very tensor
        else:
            into[key] = copy.deepcopy(value)


@contextmanager
def _untouched(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Any]) -> Iterator[None]:
    start = _Start(model, optimizer)
    generators = [(g, g.get_state()) for g in _generators(batches)]
    python, arrays, devices = random.getstate(), np.random.get_state(), list(range(torch.cuda.device_count()))
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        for generator, state in generators:
            generator.set_state(state)
        start.restore()


def _generators(batches: Any) -> list[torch.Generator]:
    """Those that a DataLoader and its samplers draw the order from."""
    sampler = getattr(batches, "batch_sampler", None)
    holders = [batches, getattr(batches, "sampler", None), sampler, getattr(sampler, "sampler", None)]
    found = {id(g): g for h in holders if isinstance(g := getattr(h, "generator", None), torch.Generator)}
    return list(found.values())


def _user_loop(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: Callable[[Any], Tensor], batches: list[Any], seed: int
) -> Loop:
    order = list(range(len(batches)))
    random.Random(seed).shuffle(order)

    def step(t: int) -> tuple[float, int]:
        values: list[float] = []

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = loss(batches[order[(t - 1) % len(order)]])
            value.backward()
            values.append(float(value.detach()))
            return value

        torch.manual_seed(1_000_003 * (seed + 1) + t)
        optimizer.step(closure)  # type: ignore[arg-type]
        return values[0], len(values)

    def losses() -> list[float]:
        torch.manual_seed(seed)
        return [float(loss(batch).detach()) for batch in batches[:NUM_LOSSES]]

    return Loop(model, optimizer, step, losses)


def _check(optimizer: torch.optim.Optimizer, batches: Iterable[Any], num_probes: int) -> None:
    if isinstance(batches, Iterator):
        raise InvalidTypeError(
            f"find_bracket() got a {type(batches).__name__} as batches. An iterator cannot be put back to where it was. Expected a "
            f"DataLoader or a list. Pass the loader itself, or a list of batches."
        )
    if isinstance(num_probes, bool) or not isinstance(num_probes, int) or num_probes < 1:
        raise InvalidValueError(
            f"find_bracket() got num_probes={num_probes!r}. Expected a whole number, at least 1. Write num_probes=3."
        )
    for i, group in enumerate(optimizer.param_groups):
        lr = group.get("lr")
        if lr is None or not math.isfinite(float(lr)) or float(lr) <= 0:
            raise InvalidValueError(
                f"find_bracket() got an optimizer whose group {i} has lr={lr!r}. Expected a positive rate in every group, since "
                f"it keeps their ratios. Set one, for example lr=1e-3."
            )
    chains = optimizer.chains if isinstance(optimizer, Optimizer) else ()
    if any(isinstance(chain.hypers.get("lr"), Schedule) for chain in chains):
        raise InvalidValueError(
            "find_bracket() got an optimizer whose lr is a schedule, which would undo every change of it. Expected a number. "
            "Build the optimizer with lr=1e-3 for this, and multiply the schedule by the rate that you choose."
        )
