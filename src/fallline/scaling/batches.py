"""BatchSizeScheduler: a batch size that changes while training, as sampler and gradient accumulation in one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from fallline.core.claims import claim
from fallline.core.errors import CheckpointError, InvalidTypeError, InvalidValueError
from fallline.core.schedule import Schedule

__all__ = ["BatchSizeScheduler", "Step"]


@dataclass(frozen=True)
class _Place:
    """Where a run stands: the epoch, the examples of it already used, and the optimizer steps done."""

    epoch: int = 0
    used: int = 0
    step: int = 0


class Step:
    """One optimizer step: its number from 1, its batch size, and, when iterated, its parts with their weights.

    The weights are the parts' shares of the batch, so that the sum of ``weight * mean loss of the part`` is the batch's mean loss.
    """

    def __init__(self, number: int, size: int, parts: Iterator[tuple[Any, float]]) -> None:
        self.number, self.size, self._parts = number, size, parts

    def __iter__(self) -> Iterator[tuple[Any, float]]:
        return self._parts


class BatchSizeScheduler(Sampler[list[int]]):
    """Batches whose size follows a schedule or a test, computed in parts that fit the memory.

    batches = BatchSizeScheduler(len(data), batch_size=64 * step_decay(1000, 2.0), micro_batch=128)
    loader = DataLoader(data, batch_sampler=batches)
    for epoch in range(10):
        for step in batches.steps(loader):
            for (x, y), weight in step:
                (weight * loss(model(x), y)).backward()
            optimizer.step()
            optimizer.zero_grad()

    Args:
        num_examples: in the data set; every epoch visits each once, in an order drawn from ``seed`` and the epoch.
        batch_size: examples of an optimizer step: a number, or a schedule of it by the step, rounded. A number may be changed by
            ``resize``, as a norm test asks. The last batch of an epoch is smaller if too few are left.
        micro_batch: the most examples in one part, that is in one forward pass.
        drop_last: leave out an epoch's last examples instead of a smaller batch.

    ``state_dict`` holds where the training loop is, not what a loader's workers have read ahead; after ``load_state_dict`` the next
    ``steps`` goes on from there, in the middle of an epoch too.
    """

    def __init__(
        self, num_examples: int, batch_size: int | Schedule, micro_batch: int, seed: int = 0, drop_last: bool = False
    ) -> None:
        for name, value in (("num_examples", num_examples), ("micro_batch", micro_batch)):
            _check_whole(name, value)
        if not isinstance(batch_size, Schedule):
            _check_whole("batch_size", batch_size)
        self.num_examples, self.micro_batch, self.seed, self.drop_last = num_examples, micro_batch, seed, drop_last
        self._batch_size: int | Schedule = batch_size
        self._place = _Place()
        self._planned: deque[tuple[int, _Place]] = deque()  # steps that the sampler has emitted and nobody has taken

    # -- sizes --------------------------------------------------------------------------------------------------------

    @property
    def batch_size(self) -> int:
        """Examples of the next step, unless the epoch has fewer left."""
        return self._size(self._place.step + 1)

    def resize(self, batch_size: int) -> None:
        """Use another batch size from the next step on; with a loader that reads ahead, from the next one that is not yet read."""
        if isinstance(self._batch_size, Schedule):
            raise InvalidValueError(
                f"resize({batch_size}) has no effect, because the batch size follows {self._batch_size!r}. Expected a number as batch_size. "
                f"Build the scheduler with batch_size={batch_size}."
            )
        _check_whole("batch_size", batch_size)
        self._batch_size = batch_size

    def _size(self, step: int) -> int:
        if not isinstance(self._batch_size, Schedule):
            return self._batch_size
        size = round(self._batch_size(step))
        if size < 1:
            raise InvalidValueError(
                f"The batch size at step {step} is {self._batch_size(step):g}. Expected at least 1 after rounding. Correct the schedule."
            )
        return size

    # -- the sampler --------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[list[int]]:
        """Indices of the parts of the epoch's remaining steps, from where the training loop stands."""
        self._planned.clear()
        place = self._place
        order = self._order(place.epoch)
        while (size := self._next(place)) > 0:
            indices = order[place.used : place.used + size]
            place = replace(place, used=place.used + size, step=place.step + 1)
            self._planned.append((size, place))
            yield from (indices[i : i + self.micro_batch] for i in range(0, size, self.micro_batch))

    def __len__(self) -> int:
        """Parts left in this epoch."""
        place, parts = self._place, 0
        while (size := self._next(place)) > 0:
            place = replace(place, used=place.used + size, step=place.step + 1)
            parts += -(-size // self.micro_batch)
        return parts

    def _next(self, place: _Place) -> int:
        """The size of the step after ``place``; 0 at the end of the epoch."""
        wanted = self._size(place.step + 1)
        left = self.num_examples - place.used
        if self.drop_last and wanted > self.num_examples:
            raise InvalidValueError(
                f"Step {place.step + 1} wants a batch of {wanted}, more than all {self.num_examples} examples, and drop_last leaves out smaller ones. "
                f"Expected a batch that an epoch can fill. Use drop_last=False or smaller batches."
            )
        return 0 if self.drop_last and wanted > left else min(wanted, left)

    def _order(self, epoch: int) -> list[int]:
        rng = torch.Generator().manual_seed((self.seed << 20) + epoch)
        order: list[int] = torch.randperm(self.num_examples, generator=rng).tolist()
        return order

    # -- the training loop --------------------------------------------------------------------------------------------

    def steps(self, loader: Iterable[Any]) -> Iterator[Step]:
        """The optimizer steps of (the rest of) one epoch; ``loader`` is a DataLoader with this as its ``batch_sampler``."""
        if getattr(loader, "batch_sampler", self) is not self:
            raise InvalidValueError(
                "steps() got a loader that draws its batches elsewhere. Expected one built with this scheduler. "
                "Write DataLoader(data, batch_sampler=batches)."
            )
        parts = iter(loader)
        for first in parts:
            size, after = self._planned.popleft()
            step = Step(after.step, size, self._weighted(first, parts, size, after))
            yield step
            for _ in step:  # parts that the loop has left out
                pass
        self._place = _Place(self._place.epoch + 1, 0, self._place.step)

    def _weighted(self, first: Any, rest: Iterator[Any], size: int, after: _Place) -> Iterator[tuple[Any, float]]:
        count = -(-size // self.micro_batch)
        for i in range(count):
            length = min(self.micro_batch, size - i * self.micro_batch)
            part = first if i == 0 else next(rest)
            if i == count - 1:  # the last part is out: a checkpoint after this step is of this place
                self._place = after
            yield part, length / size

    # -- saving and loading -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers: the place in the data, the steps done, and the batch size unless it follows a schedule."""
        fixed = {} if isinstance(self._batch_size, Schedule) else {"batch_size": self._batch_size}
        place = {"epoch": self._place.epoch, "used": self._place.used, "step": self._place.step}
        return {**place, **fixed, "num_examples": self.num_examples, "seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there. Raises if the data or the seed differ, or one of the two has a schedule and the other has not."""
        mine = self.state_dict()
        if state.keys() != mine.keys():
            raise CheckpointError(
                f"The batch size scheduler's state has {sorted(state)}. Expected {sorted(mine)}. Build it with a number or a schedule as batch_size, "
                f"as when it was saved."
            )
        for name in ("num_examples", "seed"):
            if state[name] != mine[name]:
                raise CheckpointError(
                    f"The batch size scheduler's state has {name}={state[name]}, this one {mine[name]}. They must agree. Build it as when it was saved."
                )
        self._place = _Place(state["epoch"], state["used"], state["step"])
        if "batch_size" in state:
            self._batch_size = state["batch_size"]
        self._planned.clear()


def _check_whole(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidTypeError(
            f"BatchSizeScheduler got {name}={value!r}. Expected a whole number, at least 1. Write for example {name}=64."
        )
    if value < 1:
        raise InvalidValueError(
            f"BatchSizeScheduler got {name}={value}. Expected at least 1. Write for example {name}=64."
        )


@claim(
    "BatchSizeScheduler",
    "a part's loss is normalised by the whole batch's size, not by its own: the gradients then add up to the batch's",
    "arXiv:1706.02677, section 3, remark on gradient aggregation",
)
def adds_up(lab):
    x, y = lab.gradient(1).flatten(), lab.gradient(2).flatten()  # 24 examples; the loss is (w x - y)^2 at w = 1

    def slope(i: list[int]) -> Tensor:
        return (2 * x[i] * (x[i] - y[i])).mean()

    batches = BatchSizeScheduler(24, batch_size=17, micro_batch=5)
    for step in batches.steps(_parts_of(batches)):
        parts = list(step)
        whole = [i for part, _ in parts for i in part]
        yield lab.close(sum(weight * slope(part) for part, weight in parts), slope(whole))


def _parts_of(batches: BatchSizeScheduler) -> Iterator[list[int]]:
    """The indices themselves, in place of a loader."""
    yield from batches
