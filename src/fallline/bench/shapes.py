"""The parameter sets that steps are timed on: lists of shapes, written out by rule, and which of them are embeddings or heads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fallline.core.errors import unknown

__all__ = ["SETS", "ParameterSet", "Shape", "parameter_sets"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ParameterSet:
    """What an optimizer steps: float32 tensors of these shapes, and how often a step is timed by default."""

    name: str
    summary: str
    shapes: tuple[Shape, ...]
    rounds: int
    quick_rounds: int
    apart: tuple[int, ...] = ()  # places of embeddings and heads, which methods for hidden matrices leave to AdamW

    @property
    def hidden(self) -> tuple[Shape, ...]:
        """All shapes but those of embeddings and heads."""
        return tuple(shape for k, shape in enumerate(self.shapes) if k not in self.apart)

    @property
    def numel(self) -> int:
        """Parameters in all."""
        return sum(math.prod(shape) for shape in self.shapes)


def _gpt2(width: int = 768, depth: int = 12, vocabulary: int = 50257, context: int = 1024) -> tuple[Shape, ...]:
    """GPT-2 small (Radford et al. 2019): tied embedding, so the head has no tensor of its own."""
    norm: list[Shape] = [(width,), (width,)]
    attention: list[Shape] = [(width, 3 * width), (3 * width,), (width, width), (width,)]
    mlp: list[Shape] = [(width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    return ((vocabulary, width), (context, width), *(norm + attention + norm + mlp) * depth, *norm)


_EMBEDDINGS = (0, 1)  # of _gpt2: of words and of places


def _resnet18(classes: int = 1000) -> tuple[Shape, ...]:
    """ResNet-18 (He et al., arXiv:1512.03385, table 1): convolutions without bias, each followed by a batch norm."""

    def conv(out: int, into: int, size: int) -> list[Shape]:
        return [(out, into, size, size), (out,), (out,)]

    shapes = conv(64, 3, 7)
    into = 64
    for out in (64, 128, 256, 512):
        shapes += conv(out, into, 3) + conv(out, out, 3)
        shapes += conv(out, into, 1) if out != into else []  # the shortcut
        shapes += conv(out, out, 3) + conv(out, out, 3)
        into = out
    return (*shapes, (classes, 512), (classes,))


_MIXED = (*_resnet18(), *_gpt2(width=256, depth=4, vocabulary=4096, context=256))
_HEAD = len(_resnet18()) - 2


SETS = {
    entry.name: entry
    for entry in (
        ParameterSet("large", "4 matrices of 2048 x 2048 with biases", ((2048, 2048), (2048,)) * 4, 15, 7),
        ParameterSet("small", "300 matrices of 64 x 64 with biases", ((64, 64), (64,)) * 300, 40, 15),
        ParameterSet("gpt2", "GPT-2 small", _gpt2(), 7, 3, _EMBEDDINGS),
        ParameterSet(
            "billion", "a transformer of a billion parameters", _gpt2(width=2048, depth=18), 7, 3, _EMBEDDINGS
        ),
        ParameterSet(
            "mixed",
            "ResNet-18 and a transformer of width 256",
            _MIXED,
            15,
            5,
            (_HEAD, *(len(_resnet18()) + k for k in _EMBEDDINGS)),
        ),
    )
}


def parameter_sets(names: Sequence[str]) -> list[ParameterSet]:
    """The sets of these names; an unknown one is an error that lists the nearest."""
    for name in names:
        if name not in SETS:
            raise unknown("parameter set", name, SETS)
    return [SETS[name] for name in dict.fromkeys(names)]
