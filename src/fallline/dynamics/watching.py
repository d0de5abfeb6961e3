"""A watch on a training loop, in one line to attach and one a step: what every step does, and now and then what curvature says."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fallline.core.errors import InvalidTypeError, InvalidValueError
from fallline.core.optimizer import Optimizer
from fallline.core.oracle import Batch, Oracle, of_module
from fallline.curvature import gradient_statistics
from fallline.dynamics.chains import chain_of
from fallline.dynamics.findings import Finding, explain
from fallline.dynamics.motion import motion
from fallline.dynamics.probes import Curvature, first_not_finite, watch_attention
from fallline.dynamics.record import Record, Trouble

__all__ = ["BUDGET", "DIVERGED", "Watch", "watch"]

BUDGET = 0.07
"""What a watch may take by default, as a part of what the run itself takes; seen from outside a tenth, with what no clock inside sees."""

DIVERGED = 3.0
"""A loss above this many times the first one has diverged."""


class Watch:
    """Numbers of a run; ``fallline.watch(model, optimizer)`` makes one. Call ``see(loss, batch)`` after every step."""

    def __init__(
        self, oracle: Oracle | None, model: nn.Module, optimizer: torch.optim.Optimizer, every: int | None, budget: float,
        probe: Batch | None = None,
    ) -> None:  # fmt: skip
        self.record = Record()
        self._model, self._optimizer, self._oracle = model, optimizer, oracle
        self._every, self._budget, self._probe = every, budget, probe
        self._curvature = None if oracle is None else Curvature(oracle)
        self._clock = time.perf_counter
        self._began = self._clock()
        self._costs = {"motion": 0.0, "probes": 0.0}  # seconds of the last one
        self._spent = {"motion": 0.0, "probes": 0.0}
        self._before: dict[str, Tensor] | None = None
        self._first = math.nan
        self._good: dict[str, Any] | None = None
        self._handles = [optimizer.register_step_pre_hook(self._pre), optimizer.register_step_post_hook(self._post)]

    # -- in the loop ----------------------------------------------------------------------------------------------------

    def see(self, loss: Tensor | float, batch: Batch | None = None) -> None:
        """After a step: its loss and its batch, on which probes are taken where none was given. Costs little at most steps."""
        began, spent = self._clock(), sum(self._spent.values())
        self._see(loss, batch)
        self._spent["motion"] += (
            self._clock() - began - (sum(self._spent.values()) - spent)
        )  # what is left is small but paid at every step

    def _see(self, loss: Tensor | float, batch: Batch | None) -> None:
        step = self.record.steps
        batch = batch if self._probe is None else self._probe
        value = float(loss.detach()) if isinstance(loss, Tensor) else float(loss)
        self.record.add(step, {"loss": value})
        if math.isnan(self._first):
            self._first = value
        if batch is not None and self._oracle is not None and not self.record.batch_size:
            self.record.batch_size = self._oracle.num_examples(batch)
        if self.record.trouble is None and not value <= DIVERGED * abs(self._first):
            self._note_trouble(step, value, batch)
        if batch is not None and math.isfinite(value) and self._due("probes"):
            self._timed("probes", lambda: self._probes(step, batch))

    def finish(self) -> Record:
        """Take the hooks off; the record."""
        for handle in self._handles:
            handle.remove()
        self._count_skipped()
        return self.record

    @property
    def overhead(self) -> float:
        """What the watch has taken since the start, over what the run itself has."""
        spent = sum(self._spent.values())
        return spent / max(self._clock() - self._began - spent, 1e-9)

    def findings(self) -> list[Finding]:
        """What the numbers say, most important first."""
        self._count_skipped()
        return explain(self.record)

    def report(self) -> str:
        """The findings as text."""
        return "\n".join(f.text for f in self.findings())

    def save(self, path: str | Path) -> None:
        """A bundle to replay the first trouble with: the model and optimizer as they were at the last probe before, the batch at which it
        happened, and torch's random state. Read it with ``torch.load(path)``."""
        if self._good is None or self.record.trouble is None:
            raise InvalidValueError(
                f"There is {'no trouble' if self.record.trouble is None else 'no state from before the trouble'} to save. Expected a "
                f"run that has diverged after at least one probe. See report()."
            )
        torch.save({**self._good, "trouble": self.record.trouble.text}, path)

    # -- hooks ----------------------------------------------------------------------------------------------------------

    def _pre(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self.record.steps += 1
        if self._due("motion"):
            self._timed("motion", self._copy)

    def _post(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self._before is not None:
            self._timed("motion", self._moved, more=True)
        self._before = None

    def _count_skipped(self) -> None:  # when asked only: reading the count stalls a device
        if isinstance(self._optimizer, Optimizer):
            self.record.skipped = self._optimizer.num_skipped

    def _copy(self) -> None:
        self._before = {n: p.detach().clone() for n, p in self._model.named_parameters() if p.requires_grad}

    def _moved(self) -> None:
        assert self._before is not None
        self.record.add(self.record.steps, motion(self._before, dict(self._model.named_parameters())))

    # -- probes ---------------------------------------------------------------------------------------------------------

    def _probes(self, step: int, batch: Batch) -> None:
        assert self._oracle is not None
        assert self._curvature is not None
        chain = chain_of(self._optimizer)
        found, limit = self._curvature.take(batch, self._optimizer, chain, step)
        if limit is not None:
            self.record.about["threshold"] = limit.reason
        statistics = gradient_statistics(self._oracle, batch)
        found |= {"noise_scale": statistics.noise_scale, "m_coherence": statistics.m_coherence}
        attention = watch_attention(self._oracle, batch)
        if attention is not None:
            found |= {"attention_logit": attention.largest_logit, "attention_entropy": attention.smallest_entropy}
        self.record.add(step, {**found, "lr": float(self._optimizer.param_groups[0]["lr"])})
        if self.record.trouble is None:
            self._good = {
                "step": step,
                "model": copy.deepcopy(self._model.state_dict()),
                "optimizer": copy.deepcopy(self._optimizer.state_dict()),
                "random": torch.get_rng_state(),
            }

    def _note_trouble(self, step: int, value: float, batch: Batch | None) -> None:
        what = (
            "the loss is not finite"
            if not math.isfinite(value)
            else f"the loss is {value:.4g}, above {DIVERGED:g} times the first"
        )
        grads = {n: p.grad for n, p in self._model.named_parameters() if p.grad is not None}
        where = [f"the gradient of {n}" for n, g in grads.items() if not bool(g.isfinite().all())]
        if not math.isfinite(value) and self._oracle is not None and batch is not None:
            module = first_not_finite(self._oracle, batch)
            where = [f"the output of {module}", *where] if module else where
        self.record.trouble = Trouble(step, what, tuple(where), step)
        if self._good is not None:
            self._good["batch"] = batch

    # -- cadence --------------------------------------------------------------------------------------------------------

    def _due(self, what: str) -> bool:
        if what == "probes" and self._curvature is None:
            return False
        step = self.record.steps
        if self._every is not None:
            return step % self._every == 0 or step == 1
        own = self._clock() - self._began - sum(self._spent.values())  # the run's, without the watch
        cost = self._costs[what]
        if what == "probes" and not cost:  # unknown before the first: about a hundred gradients
            cost = 100 * own / max(step, 1)
        return self._spent[what] + cost <= self._budget / 2 * own  # one half for each kind

    def _timed(self, what: str, call: Callable[[], None], more: bool = False) -> None:
        began = self._clock()
        call()
        took = self._clock() - began
        self._spent[what] += took
        self._costs[what] = self._costs[what] + took if more else took


def watch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Oracle | Callable[[Tensor, Tensor], Tensor] | None = None,
    *,
    every: int | None = None,
    budget: float = BUDGET,
    probe: Batch | None = None,
) -> Watch:
    """Watch a training loop.

        watch = fallline.watch(model, optimizer, F.cross_entropy)
        for batch in loader:
            ...                      # forward, backward, optimizer.step()
            watch.see(loss, batch)
        print(watch.report())

    Args:
        optimizer: one of ours or of torch's.
        loss: for curvature and noise: an oracle, or ``criterion(outputs, targets)`` for batches (inputs, targets). Without it only what
            steps do is seen.
        every: steps between observations. By default as often as ``budget`` allows.
        budget: what the watch may take, as a part of what the run itself takes.
        probe: the batch that curvature and noise are taken on; by default the current one, which adds its noise.
    """
    if not isinstance(model, nn.Module) or not isinstance(optimizer, torch.optim.Optimizer):
        raise InvalidTypeError(
            f"watch() got {type(model).__name__} and {type(optimizer).__name__}. Expected a model and the optimizer that trains it. "
            f"Call watch(model, optimizer)."
        )
    if not 0 < budget < 1 or (every is not None and every < 1):
        raise InvalidValueError(
            f"watch() got every={every!r}, budget={budget!r}. Expected at least 1 step, and a share between 0 and 1. Leave them out."
        )
    oracle = loss if isinstance(loss, Oracle) or loss is None else of_module(model, loss)
    return Watch(oracle, model, optimizer, every, budget, probe)
