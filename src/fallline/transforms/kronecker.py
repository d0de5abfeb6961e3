"""Kronecker factors: a tensor in equal blocks, and one small symmetric matrix for each of a block's dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Grid", "Sides", "factor_slot", "grid_of", "packed", "padded_slot", "unpacked"]

Sides = Literal["both", "left", "right", "shorter"]


@dataclass(frozen=True)
class Grid:
    """How a tensor is cut: its dimensions after merging, into how many pieces each is cut, and how long these are.

    The last pieces are filled up with zeros, which change neither the other rows and columns of a factor nor of its roots.
    """

    shape: tuple[int, ...]
    counts: tuple[int, ...]
    sizes: tuple[int, ...]
    axes: tuple[int, ...]  # dimensions of a block that have a factor

    @property
    def padded(self) -> tuple[int, ...]:
        """The shape that the pieces fill."""
        return tuple(n * s for n, s in zip(self.counts, self.sizes, strict=True))

    @property
    def num_blocks(self) -> int:
        return math.prod(self.counts)

    def pad(self, x: Tensor) -> Tensor:
        """x, of any shape of as many elements, in the shape of ``padded``."""
        x = x.reshape(self.shape)
        missing = [(0, to - n) for n, to in zip(self.shape, self.padded, strict=True)]
        return x if self.shape == self.padded else functional.pad(x, [i for pair in reversed(missing) for i in pair])

    def crop(self, x: Tensor, shape: torch.Size) -> Tensor:
        """What ``pad`` has filled up, without that and in the given shape."""
        return x[tuple(slice(n) for n in self.shape)].reshape(shape)

    def cut(self, x: Tensor) -> Tensor:
        """Blocks of a tensor of the shape ``padded``: (blocks, *sizes)."""
        k = len(self.sizes)
        pieces = x.reshape([n for pair in zip(self.counts, self.sizes, strict=True) for n in pair])
        return pieces.permute(*range(0, 2 * k, 2), *range(1, 2 * k, 2)).reshape(self.num_blocks, *self.sizes)

    def join(self, blocks: Tensor) -> Tensor:
        """The tensor of the shape ``padded`` that ``cut`` has cut."""
        k = len(self.sizes)
        pieces = blocks.reshape(*self.counts, *self.sizes)
        return pieces.permute([i for pair in zip(range(k), range(k, 2 * k), strict=True) for i in pair]).reshape(
            self.padded
        )

    def outer(self, blocks: Tensor, axis: int) -> Tensor:
        """The products of a block with itself over all dimensions but one: (blocks, size, size); for a matrix, x x^T or x^T x."""
        rows = blocks.movedim(axis + 1, 1).flatten(2)
        return rows @ rows.mT

    def times(self, blocks: Tensor, factors: Sequence[Tensor], transposed: bool = False) -> Tensor:
        """Every dimension of the blocks with a factor, multiplied by it: for a matrix, A x B^T, or A^T x B if transposed."""
        for axis, factor in zip(self.axes, factors, strict=True):
            lead = blocks.movedim(axis + 1, 1)
            found = (factor.mT if transposed else factor) @ lead.flatten(2)
            blocks = found.reshape(lead.shape).movedim(1, axis + 1)
        return blocks

    @property
    def num_factor_elements(self) -> int:
        """Elements of all factors of all blocks."""
        return sum(self.num_blocks * self.sizes[axis] ** 2 for axis in self.axes)


@lru_cache(maxsize=4096)
def grid_of(shape: tuple[int, ...], block: int, sides: Sides = "both") -> Grid | None:
    """The grid of a tensor of this shape; None for vectors, and for whatever has no two dimensions of more than one element.

    Dimensions after the first are merged with their neighbours as long as a block holds them: a convolution's kernel is commonly one.
    """
    dims = [n for n in shape if n != 1]
    if len(dims) < 2 or 0 in dims:
        return None
    merged = [dims[0], dims[-1]]
    for n in reversed(dims[1:-1]):
        if n * merged[1] <= block:
            merged[1] *= n
        else:
            merged.insert(1, n)
    counts = tuple(-(-n // block) for n in merged)
    sizes = tuple(-(-n // c) for n, c in zip(merged, counts, strict=True))
    axes = range(len(merged))
    chosen = {
        "both": tuple(axes),
        "left": (0,),
        "right": tuple(axes)[1:],
        "shorter": (min(axes, key=lambda i: merged[i]),),
    }[sides]
    return Grid(tuple(merged), counts, sizes, chosen)


def packed(factors: Sequence[Tensor]) -> Tensor:
    """Factors of all dimensions in one slot, a vector."""
    return torch.cat([factor.reshape(-1) for factor in factors])


def unpacked(slot: Tensor, grid: Grid) -> list[Tensor]:
    """The factors in a slot, one stack of (blocks, size, size) for every dimension that has them."""
    shapes = [(grid.num_blocks, grid.sizes[axis], grid.sizes[axis]) for axis in grid.axes]
    parts = torch.split(slot, [math.prod(shape) for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def factor_slot(step: Any, p: Tensor) -> Tensor:
    """A slot for the factors of a step with fields ``block`` and ``sides``; a number for vectors."""
    grid = grid_of(tuple(p.shape), step.block, step.sides)
    return p.new_zeros(() if grid is None else grid.num_factor_elements)


def identity_slot(step: Any, p: Tensor) -> Tensor:
    """The same, an identity for every factor: what stands for a root or a basis if the first step, which finds them, is refused."""
    grid = grid_of(tuple(p.shape), step.block, step.sides)
    if grid is None:
        return p.new_zeros(())
    return packed([torch.eye(f.shape[-1]).to(p).expand_as(f) for f in unpacked(factor_slot(step, p), grid)])


def padded_slot(step: Any, p: Tensor) -> Tensor:
    """A slot with an element for each of the blocks' of such a step; shaped like the parameter where nothing is filled up."""
    grid = grid_of(tuple(p.shape), step.block, step.sides)
    return torch.zeros_like(p) if grid is None or grid.padded == grid.shape else p.new_zeros(grid.padded)
