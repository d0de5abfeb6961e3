"""What a step did to every tensor: gradient, update and weight norms, the turn, from copies made just before it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["motion"]


def motion(before: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> dict[str, float]:
    r"""By tensor: ``gradient_norm``, ``update_ratio`` :math:`\|\Delta w\| / \|w\|`, and ``turn``, the angle in radians between w before and
    after, which is the effective step of a weight whose scale does not matter (Wan et al., arXiv:2006.08419, definition 1).

    And ``gradient_norm``, ``update_ratio`` of everything together.
    """
    names = list(before)
    old = [before[n].float() for n in names]
    new = [params[n].detach().float() for n in names]
    moved = torch._foreach_sub(new, old)
    update, weight, after = (torch.stack(torch._foreach_norm(x)).double() for x in (moved, old, new))
    inner = torch.stack([(a * b).sum() for a, b in zip(old, new, strict=True)]).double()
    cosine = (inner / (weight * after).clamp(min=1e-300)).clamp(-1, 1)
    # for small angles arccos has no digits left; the part of the step across w has them
    across = (update.square() - (after - weight).square()).clamp(min=0).sqrt() / (weight * after).sqrt().clamp(
        min=1e-300
    )
    turn = torch.where(cosine > 0.999, across, cosine.arccos())
    ratio = torch.where(weight > 0, update / weight.clamp(min=1e-300), torch.nan)
    gradients = [params[n].grad for n in names]
    norms = torch.stack([torch.tensor(torch.nan) if g is None else g.detach().float().norm().cpu() for g in gradients])
    found = {"gradient_norm": float(norms.double().square().nansum().sqrt())}
    found["update_ratio"] = float(update.norm() / weight.norm().clamp(min=1e-300))
    for kind, values in (("update_ratio", ratio), ("turn", turn), ("gradient_norm", norms)):
        found |= {f"{kind}/{name}": value for name, value in zip(names, values.tolist(), strict=True)}
    return found
