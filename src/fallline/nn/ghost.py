"""Ghost batch normalisation: a large batch is normalised in small parts, so that batch norm's noise stays that of small batches."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fallline.core.claims import claim
from fallline.core.groups import matches
from fallline.nn.check import demand, demand_count

__all__ = ["GhostBatchNorm", "with_ghost_batch_norm", "zero_last_gamma"]

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class GhostBatchNorm(nn.Module):
    r"""Batch normalisation of each part of ``ghost_size`` examples by its own mean and variance (Hoffer et al., arXiv:1705.08741,
    algorithm 1). Inputs (batch, channels, ...).

    Running statistics take the parts one after another, as so many small batches would; evaluation is ``nn.BatchNorm``'s. A batch
    that ``ghost_size`` does not divide is cut into parts that differ by one example at most, none larger than ``ghost_size``.
    """

    def __init__(self, num_channels: int, ghost_size: int = 64, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        demand_count("GhostBatchNorm", "num_channels", num_channels)
        demand_count("GhostBatchNorm", "ghost_size", ghost_size, least=2)
        self.ghost_size, self.eps, self.momentum = ghost_size, eps, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(num_channels)), nn.Parameter(torch.zeros(num_channels))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        parts = x.tensor_split(math.ceil(len(x) / self.ghost_size)) if self.training else (x,)
        return torch.cat([self._normalised(part) for part in parts])

    def _normalised(self, x: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(x, mean, var, self.weight, self.bias, self.training, self.momentum, self.eps)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, ghost_size={self.ghost_size}"


def with_ghost_batch_norm(model: nn.Module, ghost_size: int = 64) -> nn.Module:
    """Replace every ``nn.BatchNorm`` of the model by a GhostBatchNorm with its parameters and running statistics, in place."""
    found = [name for name, m in model.named_modules() if isinstance(m, BATCH_NORMS)]
    demand(
        bool(found) and "" not in found,
        f"with_ghost_batch_norm() found no nn.BatchNorm inside {type(model).__name__}",
        "Expected a model that holds at least one",
        "Pass the whole model, or write GhostBatchNorm(channels) where it is built",
    )
    for name in found:
        old = model.get_submodule(name)
        assert isinstance(old, BATCH_NORMS)
        demand(
            old.affine and old.track_running_stats and old.momentum is not None,
            f"with_ghost_batch_norm() found {name!r} = {old}",
            "Only layers with affine parameters, running statistics and a momentum have a ghost twin",
            "Replace the others by hand",
        )
        new = GhostBatchNorm(old.num_features, ghost_size, old.eps, old.momentum or 0.0).to(old.weight)
        new.load_state_dict({k: v for k, v in old.state_dict().items() if k != "num_batches_tracked"})
        new.train(old.training)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new)
    return model


@torch.no_grad()
def zero_last_gamma(model: nn.Module, pattern: str) -> list[str]:
    """Set the scale of the last normalisation of every residual branch to 0, so that each block starts as the identity (Goyal et al.,
    arXiv:1706.02677, section 5.1). ``pattern`` holds globs, separated by ``|``, on the names of those layers: ``"*.bn2"`` for
    torchvision's basic blocks, ``"*.bn3"`` for bottlenecks. Returns the names found; none is an error.
    """
    found = [
        name
        for name, m in model.named_modules()
        if matches(name, pattern) and isinstance(getattr(m, "weight", None), Tensor)
    ]
    names = [name for name, m in model.named_modules() if "Norm" in type(m).__name__]
    demand(
        bool(found),
        f"zero_last_gamma() found no layer with a weight that matches {pattern!r}",
        f"Expected one in each residual block; this model's normalisations are {', '.join(names) or 'none'}",
        "Pass a pattern that matches the last of every branch, as '*.bn2'",
    )
    for name in found:
        layer = model.get_submodule(name)
        demand(
            "Norm" in type(layer).__name__,
            f"zero_last_gamma() would set {name!r}, a {type(layer).__name__}, to zero",
            "Expected normalisation layers only",
            "Pass a pattern that matches these alone",
        )
        nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
    return found


@claim("GhostBatchNorm", "each part is normalised as a batch of its own", where="arXiv:1705.08741, algorithm 1")
def parts_are_batches(lab):
    torch.manual_seed(0)
    x = torch.randn(12, 3, 4, dtype=torch.float64) * 2 + 1
    ghost, plain = GhostBatchNorm(3, ghost_size=4).double(), nn.BatchNorm1d(3).double()
    yield lab.equal(ghost(x).detach(), torch.cat([plain(part) for part in x.split(4)]).detach())
    yield lab.equal(ghost.running_mean, plain.running_mean)
    yield lab.equal(ghost.running_var, plain.running_var)
    yield lab.equal(ghost.eval()(x).detach(), plain.eval()(x).detach())
