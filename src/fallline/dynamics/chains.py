"""The chain that an optimizer runs now, with the current values of its groups; of torch's optimizers, the same method of ours."""

from __future__ import annotations

import torch

import fallline.optim
from fallline.core.errors import FalllineError
from fallline.core.optimizer import Optimizer
from fallline.core.transform import Chain

__all__ = ["chain_of"]

_STRUCTURE = ("amsgrad", "nesterov", "centered", "dampening", "betas", "eps", "weight_decay", "momentum", "alpha", "lr")


def chain_of(optimizer: torch.optim.Optimizer) -> Chain | None:
    """The first group's chain; None for an optimizer of torch that we have no method for."""
    if isinstance(optimizer, Optimizer):
        return optimizer.current_chain(0)
    cls = getattr(fallline.optim, type(optimizer).__name__, None)
    if cls is None or type(optimizer).__module__.partition(".")[0] != "torch":
        return None
    group = optimizer.param_groups[0]
    try:
        values = {
            k: float(group[k]) if isinstance(group[k], torch.Tensor) else group[k] for k in _STRUCTURE if k in group
        }
        known = {k: v for k, v in values.items() if k in cls.__signature__.parameters}
        twin: Optimizer = cls([torch.nn.Parameter(torch.zeros(2))], **known)
    except FalllineError:
        return None
    return twin.current_chain(0)
