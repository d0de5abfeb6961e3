"""What a task trains on: anything with a length that gives a batch for a tensor of indices."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import default_collate

from fallline.core.errors import FalllineError

__all__ = ["Batch", "Dataset", "Tensors", "Windows", "fetch"]

Batch: TypeAlias = Any
"""Whatever the task's own loss and metric understand: a tensor, a tuple of tensors, a dictionary of tensors."""


@runtime_checkable
class Dataset(Protocol):
    """Anything with a length and ``__getitem__`` (as in torch) or, faster, ``batch(indices)``."""

    def __len__(self) -> int: ...


class Tensors:
    """Rows of tensors that share their first dimension; a batch is a tuple with one tensor for each of them.

    >>> images, labels = torch.zeros(5, 2), torch.arange(5)
    >>> Tensors(images, labels).batch(torch.tensor([3, 1]))[1]
    tensor([3, 1])
    """

    def __init__(self, *tensors: Tensor) -> None:
        lengths = [len(t) for t in tensors if t.ndim]
        if not tensors or len(lengths) < len(tensors) or len(set(lengths)) > 1:
            raise FalllineError(
                f"Tensors() got {[tuple(t.shape) for t in tensors]}. It needs one or more tensors with the same first "
                f"dimension (the number of examples). Check that inputs and labels have the same length."
            )
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        """The rows ``indices``, shape (batch,), of every tensor."""
        return tuple(t.index_select(0, indices.to(t.device)) for t in self.tensors)


class Windows:
    """Windows of ``length`` tokens for a language model, one starting every ``stride`` tokens.

    A batch is ``(inputs, targets)``, both (batch, length) and of type int64; the targets are the inputs shifted by one.
    """

    def __init__(self, tokens: Tensor, length: int, stride: int = 1) -> None:
        if tokens.ndim != 1 or length < 1 or stride < 1 or len(tokens) <= length:
            raise FalllineError(
                f"Windows() got tokens of shape {tuple(tokens.shape)}, length {length} and stride {stride}. It needs a "
                f"1-d tensor longer than length, and both numbers at least 1. Give more text or a smaller length."
            )
        self.tokens, self.length, self.stride = tokens, length, stride
        self._offsets = torch.arange(length + 1, device=tokens.device)

    def __len__(self) -> int:
        return (len(self.tokens) - self.length - 1) // self.stride + 1

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The windows ``indices``, shape (batch,)."""
        window = self.tokens[indices.to(self.tokens.device)[:, None] * self.stride + self._offsets].long()
        return window[:, :-1], window[:, 1:]


def fetch(dataset: Dataset, indices: Tensor) -> Batch:
    """The batch of the examples ``indices``, an int64 tensor of shape (batch,).

    Uses the first of these that the dataset has: torch's ``__getitems__(list)``, ``batch(indices)``, ``dataset[i]`` for
    each index. What the first and the last give is put together by torch's ``default_collate``.
    """
    if hasattr(dataset, "__getitems__"):  # first, because the datasets of Hugging Face have another batch()
        return default_collate(dataset.__getitems__(indices.tolist()))
    if hasattr(dataset, "batch"):
        return dataset.batch(indices)
    return default_collate([dataset[i] for i in indices.tolist()])  # type: ignore[index]
