r"""Directions to cut the landscape along: random ones, in the scale of the weights that they are added to.

Filter normalisation (Li et al., arXiv:1712.09913, section 4) gives every filter of a direction the length of its filter of weights:

.. math:: d_{ij} \leftarrow \frac{d_{ij}}{\|d_{ij}\|} \, \|\theta_{ij}\|, \qquad \text{filter } j \text{ of layer } i

A ReLU layer scaled by c with the next one scaled by 1 / c is the same function; without normalisation its slice looks c times
sharper or flatter. Normalised slices are equal for layers scaled as a whole. They are not for units scaled one by one: in the next layer
that changes the shape of a filter, not only its length.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fallline.core.errors import unknown
from fallline.core.types import Params
from fallline.landscape.points import require_alike

__all__ = ["NORMALISATIONS", "normalise", "random_direction"]

NORMALISATIONS = ("filter", "layer", "whole", "none")


def random_direction(params: Params, *, seed: int = 0, normalisation: str = "filter") -> dict[str, Tensor]:
    """A direction with normal entries, normalised as ``normalise`` says; the same for every dtype and device."""
    drawn = torch.Generator().manual_seed(seed)
    direction = {}
    for name, p in params.items():
        d = torch.randn(p.shape, generator=drawn, dtype=torch.float64)
        direction[name] = d.to(p.device, p.dtype)
    return normalise(direction, params, normalisation)


def normalise(direction: Params, params: Params, normalisation: str = "filter") -> dict[str, Tensor]:
    """A direction in the scale of the weights.

    Args:
        normalisation: ``"filter"``: each slice along the first dimension gets the length of that slice of the weights. ``"layer"``: each
            tensor gets its tensor's length. Both are zero for tensors of one dimension (biases, norms), as in the paper's code.
            ``"whole"``: the direction gets the length of all parameters together. ``"none"``: as it is.
    """
    if normalisation not in NORMALISATIONS:
        raise unknown("normalisation", normalisation, NORMALISATIONS)
    require_alike(direction, params)
    if normalisation == "none":
        return dict(direction)
    if normalisation == "whole":
        ratio = _ratio(_length(params), _length(direction))
        return {name: ratio * d for name, d in direction.items()}
    return {name: _scaled(d, params[name].detach(), normalisation) for name, d in direction.items()}


def _scaled(d: Tensor, w: Tensor, normalisation: str) -> Tensor:
    if d.dim() <= 1:
        return torch.zeros_like(d)
    if normalisation == "layer":
        return d * _ratio(w.norm(), d.norm())
    ratio = _ratio(w.flatten(1).norm(dim=1), d.flatten(1).norm(dim=1))
    return d * ratio.reshape(-1, *[1] * (d.dim() - 1))


def _ratio(wanted: Tensor, length: Tensor) -> Tensor:
    """What to scale by; a direction of length 0 stays."""
    return torch.where(length > 0, wanted / length, 0.0)


def _length(tensors: Params) -> Tensor:
    return torch.stack([t.detach().norm() for t in tensors.values()]).norm()
