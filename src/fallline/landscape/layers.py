"""The symmetry of a chain of layers, found by walking it: ``nn.Sequential`` of linear and convolutional layers and what stands between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeAlias

from torch import nn

from fallline.core.errors import InvalidTypeError, InvalidValueError
from fallline.landscape.symmetry import Site, Symmetry

__all__ = ["symmetry_of"]

Layer: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
_VECTOR, _MAPS, _FLATTENED = "vectors", "feature maps that are not flattened", "flattened feature maps"
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_HOMOGENEOUS = (
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Flatten,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
_ELEMENTWISE = (
    nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.ELU, nn.SELU, nn.CELU, nn.Softplus, nn.Softsign, nn.Hardtanh,
    nn.Hardswish, nn.Hardsigmoid, nn.ReLU6, nn.LogSigmoid, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink,
)  # fmt: skip


def symmetry_of(module: nn.Module, *, prefix: str = "") -> Symmetry:
    """The groups of units of an ``nn.Sequential``, nested or not; names are those of ``module.named_parameters()``.

    Known are Linear, Conv1d to 3d without groups, batch, layer and group normalisation, pooling, flattening, dropout and activations
    that act on each element. The outputs of the last layer are no group: they are given.

    Args:
        prefix: of the names, where the Sequential is a part of the model: ``symmetry_of(model.net, prefix="net.")``.
    """
    if not isinstance(module, nn.Sequential):
        raise InvalidTypeError(
            f"symmetry_of() got {type(module).__name__}. Expected nn.Sequential, whose layers follow one another. For a model with "
            f"a Sequential in it pass symmetry_of(model.net, prefix='net.'); for others write Symmetry(groups)."
        )
    groups: dict[str, list[Site]] = {}
    mixed: set[str] = set()  # groups that an activation keeps from being scaled
    last, units, shape = "", 0, _VECTOR
    for name, layer in _leaves(module, prefix):
        if isinstance(layer, Layer):
            if last:
                _check_reads(name, layer, last, units, shape)
                groups[last].append(Site(f"{name}.weight", 1, -1))
            groups[name] = [Site(f"{name}.{kind}", 0, 1) for kind, _ in layer.named_parameters(recurse=False)]
            last, units = name, layer.weight.shape[0]
            shape = _VECTOR if isinstance(layer, nn.Linear) else _MAPS
        elif isinstance(layer, nn.Flatten):
            if layer.start_dim != 1 or layer.end_dim != -1:
                raise _refused(name, layer, "it flattens some of the dimensions alone")
            shape = _VECTOR if shape == _VECTOR else _FLATTENED
        elif isinstance(layer, (*_BATCH_NORMS, nn.LayerNorm, nn.GroupNorm)):
            if last:
                _check_normalises(name, layer, units, shape)
                groups[last] = [replace(s, scale=0) for s in groups[last]]  # what is normalised has no scale
                own = [kind for kind, _ in layer.named_parameters(recurse=False)]
                groups[last] += [Site(f"{name}.{kind}", 0, 1) for kind in own]
                running = [kind for kind, b in layer.named_buffers(recurse=False) if b.dim()]
                groups[last] += [Site(f"{name}.{kind}", 0, 0, buffer=True) for kind in running]
                mixed = mixed - {last} if own else mixed | {last}
        elif isinstance(layer, (*_HOMOGENEOUS, *_ELEMENTWISE)):
            if last and isinstance(layer, nn.PReLU) and layer.num_parameters > 1:
                groups[last].append(Site(f"{name}.weight", 0))
            if last and isinstance(layer, _ELEMENTWISE):
                mixed |= {last}
        else:
            raise _refused(name, layer, "what it does to units is not known")
    groups.pop(last, None)
    found_groups = {group: tuple(sites) for group, sites in groups.items()}
    return Symmetry(found_groups, frozenset(found_groups) - mixed)


def _leaves(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """The layers in order, with the names of their parameters' prefixes."""
    inside, seen = "", set()
    for name, layer in module.named_modules(remove_duplicate=False):
        if isinstance(layer, nn.Sequential) or (inside and name.startswith(inside)):
            continue
        if layer in seen and list(layer.parameters()):
            raise _refused(prefix + name, layer, "it stands there twice, and ties two groups of units")
        seen.add(layer)
        inside = f"{name}."
        yield prefix + name, layer


def _check_reads(name: str, layer: Layer, last: str, units: int, shape: str) -> None:
    """Raise unless the layer's inputs are the units of the group, or a flattened map of them."""
    if not isinstance(layer, nn.Linear) and layer.groups != 1:
        raise _refused(name, layer, f"its inputs are in {layer.groups} groups")
    linear = isinstance(layer, nn.Linear)
    if linear == (shape == _MAPS):
        raise _refused(name, layer, f"it follows {shape}")
    size = layer.weight.shape[1]
    if size != units and (shape != _FLATTENED or size % units):
        raise InvalidValueError(
            f"Layer {name!r} reads {size} inputs after the {units} units of {last!r}. Expected as many, or a multiple where maps were "
            f"flattened. Are the layers applied in the order in which they stand?"
        )


def _check_normalises(name: str, layer: nn.Module, units: int, shape: str) -> None:
    """Raise unless the layer treats all units alike."""
    if isinstance(layer, nn.LayerNorm) and (shape == _MAPS or tuple(layer.normalized_shape) != (units,)):
        raise _refused(name, layer, f"it normalises {tuple(layer.normalized_shape)} and not the {units} units")
    if isinstance(layer, nn.GroupNorm) and layer.num_groups != 1:
        raise _refused(
            name, layer, f"it normalises {layer.num_groups} groups of units, which cannot change places freely"
        )
    if isinstance(layer, _BATCH_NORMS) and layer.num_features != units:
        raise _refused(name, layer, f"it normalises {layer.num_features} features of {units} units")


def _refused(name: str, layer: nn.Module, why: str) -> InvalidValueError:
    return InvalidValueError(
        f"symmetry_of() cannot read layer {name!r}, {type(layer).__name__}: {why}. Expected Linear, convolutions without groups, "
        f"normalisation, pooling, Flatten, dropout and activations of single elements. Write Symmetry(groups) for this model."
    )
