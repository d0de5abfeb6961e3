"""Which tensors of a group are stepped together: a bundle for each device, dtype, kind of state and step count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fallline.core.bundle import NATIVE_DTYPES, Bundle, Kinds, plan
from fallline.core.grid_bundle import GridBundle
from fallline.core.kernel import Segment, usable
from fallline.core.nvrtc import available
from fallline.core.types import Reach
from fallline.core.units import Leaf, dense_order, step_counts

__all__ = ["BUNDLES", "bundles_for", "make_bundles"]

BUNDLES: dict[str, tuple[type[Bundle], Callable[[], bool]]] = {
    "cpu": (Bundle, lambda: usable("cpu")),
    "cuda": (GridBundle, available),
}
"""Kind of device -> its bundles, and whether they can be built."""


def bundles_for(leaves: Sequence[Leaf]) -> bool:
    """Whether all these tensors are where bundles can be built."""
    devices = {leaf.p.device.type for leaf in leaves}
    return devices <= BUNDLES.keys() and all(BUNDLES[device][1]() for device in devices)


def make_bundles(leaves: Sequence[Leaf], segments: Sequence[Segment]) -> tuple[list[Bundle], list[Leaf]]:
    """Bundles for all leaves that loops can step, and the leaves that are left."""
    joining: dict[Any, list[Leaf]] = {}
    left: list[Leaf] = []
    for leaf, count in zip(leaves, step_counts(leaves), strict=True):
        kinds = _kinds(leaf, segments)
        if kinds is None:
            left.append(leaf)
        else:
            joining.setdefault((leaf.p.device, tuple(kinds.items()), count), []).append(leaf)
    bundles: list[Bundle] = []
    for (device, items, _), found in joining.items():
        cls, _ = BUNDLES[device.type]
        how = plan(segments, dict(items), cls.function)
        if how is None:
            left += found
            continue
        cls.prepare(found[0].p.dtype)  # built before the first step, too
        bundles.append(cls(found, how, dict(items)))
    return bundles, sorted(left, key=lambda leaf: leaf.place)


def _kinds(leaf: Leaf, segments: Sequence[Segment]) -> Kinds | None:
    """Its arrays as loops know them; None for a tensor that they cannot take."""
    p = leaf.p
    wide = any(segment.reach > Reach.ELEMENT for segment in segments)
    if p.device.type not in BUNDLES or p.dtype not in NATIVE_DTYPES or p.dim() == 0 or p.numel() == 0:
        return None
    if type(p) not in (Tensor, nn.Parameter) or dense_order(p) is None or p.is_neg() or (leaf.scattered and wide):
        return None
    touched = {key for segment in segments for key in segment.touched(dict(leaf.state))}
    kinds: dict[str, tuple[torch.dtype, bool]] = {"p": (p.dtype, False), "g": (p.dtype, False)}
    for key in sorted(touched):
        v = leaf.state[key]
        if v.device != p.device or (v.dim() > 0 and (v.shape != p.shape or v.stride() != p.stride())):
            return None
        kinds[key] = (v.dtype, v.dim() == 0)
    return kinds
