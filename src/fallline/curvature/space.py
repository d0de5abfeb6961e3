"""A space of named tensors: their names and shapes, and the way between them and one flat vector."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from fallline.core.errors import InvalidValueError, unknown

__all__ = ["Space"]

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Space:
    """Named tensors in a fixed order; a flat vector has their entries one after another."""

    shapes: Mapping[str, tuple[int, ...]]
    dtype: torch.dtype = torch.float32
    device: torch.device = _CPU

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Space:
        """The space that these tensors are a point of."""
        if not tensors:
            raise InvalidValueError(
                "Curvature got no tensors. Expected at least one named parameter that requires a gradient. "
                "Unfreeze some, or pass params={name: tensor}."
            )
        kinds = {(t.dtype, t.device) for t in tensors.values()}
        if len(kinds) > 1:
            seen = ", ".join(sorted({f"{dtype} on {device}" for dtype, device in kinds}))
            raise InvalidValueError(
                f"Curvature got parameters of several kinds: {seen}. Expected one dtype on one device, since they are joined into "
                f"one vector. Convert the model, or pass the parameters of one kind as params={{name: tensor}}."
            )
        (dtype, device) = next(iter(kinds))
        return cls({name: tuple(t.shape) for name, t in tensors.items()}, dtype, device)

    @property
    def dim(self) -> int:
        """Number of entries."""
        return sum(self.sizes)

    @property
    def sizes(self) -> list[int]:
        """Number of entries of each tensor."""
        return [math.prod(shape) for shape in self.shapes.values()]

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The entries as one vector, shape (dim,); leading dimensions that all tensors share stay."""
        if list(tensors) != list(self.shapes) and set(tensors) != set(self.shapes):
            stray = sorted(set(tensors) ^ set(self.shapes))
            raise InvalidValueError(
                f"The vector and the space differ in {', '.join(map(repr, stray[:5]))}. Expected a tensor for each of "
                f"{len(self.shapes)} names. Leave none out; zeros for those that do not matter."
            )
        parts = []
        for name, shape in self.shapes.items():
            t = tensors[name]
            lead = t.dim() - len(shape)
            if lead < 0 or tuple(t.shape[lead:]) != shape:
                raise InvalidValueError(
                    f"The vector has shape {tuple(t.shape)} for {name!r}. Expected {shape}. Pass tensors shaped like the parameters."
                )
            parts.append(t.reshape(*t.shape[:lead], -1).to(self.dtype))
        return torch.cat(parts, -1)

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of a vector of shape (..., dim) as tensors of shape (..., *shape)."""
        lead = flat.shape[:-1]
        pieces = flat.split(self.sizes, -1)
        return {name: x.reshape((*lead, *shape)) for (name, shape), x in zip(self.shapes.items(), pieces, strict=True)}

    def matching(self, patterns: Iterable[str]) -> list[str]:
        """The names that match one of the patterns (``layer1.*``), in order."""
        patterns = list(patterns)
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in self.shapes):
                raise unknown("tensor", pattern, self.shapes, "A pattern may use *.")
        return [name for name in self.shapes if any(fnmatchcase(name, pattern) for pattern in patterns)]

    def indices(self, names: Iterable[str]) -> Tensor:
        """The places of some tensors' entries in the flat vector."""
        chosen, start, found = set(names), 0, []
        for name, size in zip(self.shapes, self.sizes, strict=True):
            if name in chosen:
                found.append(torch.arange(start, start + size, device=self.device))
            start += size
        return torch.cat(found)

    def part(self, names: Iterable[str]) -> Space:
        """The space of some of the tensors."""
        chosen = set(names)
        return Space({n: s for n, s in self.shapes.items() if n in chosen}, self.dtype, self.device)
