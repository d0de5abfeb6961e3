"""Which dimensions of which parameters grow with the width: from the shapes of two models, and what each layer does with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from fallline.core.errors import InvalidTypeError, InvalidValueError
from fallline.core.groups import matches

__all__ = ["Kind", "Width", "growth"]

Kind = Literal["input", "hidden", "output", "fixed"]
"""What grows: the outputs alone (first layers, biases, gains, embeddings), both sides, the inputs alone, nothing."""

_SWAPPED = (nn.Embedding, nn.EmbeddingBag, nn.modules.conv._ConvTransposeNd)  # weights of (in, out, ...)
_LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.Bilinear, *_SWAPPED)


@dataclass(frozen=True)
class Width:
    """A parameter, its kind, and by which factors its fan-in and fan-out exceed those of the base model."""

    name: str
    kind: Kind
    fan_in: float = 1.0
    fan_out: float = 1.0
    layer_in: float = 1.0  # the fan-in of the layer: for a bias, that of the weight beside it


def growth(model: nn.Module, base: nn.Module, kinds: Mapping[str, Kind] | None = None) -> dict[str, Width]:
    """How every parameter of ``model`` has grown from ``base``, the same architecture at another width.

    Weights of (out, in, ...) are understood for torch's layers and for matrices that grow on both sides; an embedding's table and
    any other parameter with one growing side count as input. ``kinds`` maps patterns of names to a kind where that is wrong, as for a readout
    that is a bare parameter.
    """
    for label, value in (("model", model), ("base", base)):
        if not isinstance(value, nn.Module):
            raise InvalidTypeError(
                f"mup got {type(value).__name__} as {label}. Expected a model. Pass the nn.Module, and the same architecture at the base width as base."
            )
    theirs = dict(base.named_parameters())
    mine = dict(model.named_parameters())
    if theirs.keys() != mine.keys():
        stray = sorted(theirs.keys() ^ mine.keys())
        raise InvalidValueError(
            f"mup got a base model that differs in {', '.join(stray[:5])}. Expected the same parameters at another width. Build both by one function."
        )
    owners = _owners(model)
    found = {}
    for name, p in mine.items():
        given = next((k for pattern, k in (kinds or {}).items() if matches(name, pattern)), None)
        found[name] = _width(name, p, theirs[name], owners[name], given)
    for pattern in kinds or {}:
        if not any(matches(name, pattern) for name in mine):
            raise InvalidValueError(
                f"mup got kinds for {pattern!r}, which matches no parameter. Expected one of {', '.join(list(mine)[:5])}. Correct the pattern."
            )
    return {name: _with_layer(width, owners[name], found) for name, width in found.items()}


def _owners(model: nn.Module) -> dict[str, tuple[str, nn.Module]]:
    """For every name of a parameter the module that holds it; for one that several share, an embedding before all others."""
    tables = {id(m.weight): (n, m) for n, m in model.named_modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    return {
        f"{prefix}.{own}" if prefix else own: tables.get(id(p), (prefix, module))
        for prefix, module in model.named_modules()
        for own, p in module.named_parameters(recurse=False)
    }


def _width(name: str, p: Tensor, base: Tensor, owner: tuple[str, nn.Module], given: Kind | None) -> Width:
    if p.dim() != base.dim():
        raise InvalidValueError(
            f"mup got {name} of shape {tuple(p.shape)}, in the base model {tuple(base.shape)}. Expected the same number of dimensions. Build both by one function."
        )
    ratios = [a / b if b else 1.0 for a, b in zip(p.shape, base.shape, strict=True)]
    growing = [i for i, r in enumerate(ratios) if r != 1]
    if len(growing) > 2:
        raise InvalidValueError(
            f"mup got {name}, of whose shape {tuple(p.shape)} more than two sides grow from {tuple(base.shape)}. Expected fan-in and fan-out alone to grow. "
            f"Keep kernels and the like fixed, or reshape the parameter."
        )
    if not growing:
        return Width(name, "fixed")
    _, module = owner
    if p.dim() == 1:
        out, into = ratios[0], 1.0
    elif len(growing) == 1 and not isinstance(module, _LAYERS):  # a bare parameter: positions, class tokens
        out, into = ratios[growing[0]], 1.0
    elif isinstance(module, _SWAPPED):
        out, into = ratios[1], ratios[0]
    else:
        out, into = ratios[0], ratios[1]
    kind: Kind = "hidden" if out != 1 and into != 1 else "input" if out != 1 else "output"
    if given is not None and given != kind:
        if len(growing) == 2 or given not in ("input", "output"):
            raise InvalidValueError(
                f"mup got kind {given!r} for {name}, which grows as {kind}. Expected 'input' or 'output', for parameters with one growing side. Correct kinds."
            )
        out, into, kind = into, out, given
    return Width(name, kind, into, out)


def _with_layer(width: Width, owner: tuple[str, nn.Module], found: Mapping[str, Width]) -> Width:
    prefix, module = owner
    beside = found.get(f"{prefix}.weight" if prefix else "weight")
    if isinstance(module, _LAYERS) and beside is not None:
        return Width(width.name, width.kind, width.fan_in, width.fan_out, beside.fan_in)
    return width
