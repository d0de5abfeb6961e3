"""The large-batch recipe: no decay on biases and normalisation, a scaled rate, and a warm-up up to it from the old one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fallline.core.claims import claim
from fallline.core.errors import InvalidTypeError, InvalidValueError
from fallline.core.method import MethodChain
from fallline.core.optimizer import Optimizer
from fallline.core.schedule import Schedule
from fallline.core.transform import Chain
from fallline.methods import adamw, sgd
from fallline.scaling.rescaling import RuleName, rescale
from fallline.schedules import cosine, warmup

__all__ = ["large_batch", "no_decay_groups"]

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
    nn.CrossMapLRN2d,
)


def no_decay_groups(model: nn.Module, chain: Chain) -> list[dict[str, Any]]:
    """Parameter groups for ``fallline.Optimizer``: the chain, and the same without weight decay for biases and normalisation layers.

    Without decay are all parameters of at most one dimension (biases, gains, scalars) and all of torch's normalisation layers. A
    group that would be empty is left out. Write ``fallline.Optimizer(no_decay_groups(model, chain), chain)``.
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(
            f"no_decay_groups got {type(model).__name__} instead of a model. It needs the layers' kinds. Pass the nn.Module itself."
        )
    decays = [name for name in chain.hypers if name.rpartition(".")[2] == "weight_decay"]
    if not decays:
        raise InvalidValueError(
            f"no_decay_groups got {chain.name}, which has no weight_decay. Expected a chain that decays weights. Use the chain as it is."
        )
    free = {id(p) for m in model.modules() if isinstance(m, _NORMS) for p in m.parameters(recurse=False)}
    kept: list[tuple[str, nn.Parameter]] = []
    plain: list[tuple[str, nn.Parameter]] = []
    for name, p in model.named_parameters():
        (plain if p.dim() <= 1 or id(p) in free else kept).append((name, p))
    undecayed = chain.rebuild(dict.fromkeys(decays, 0.0))
    return [{"params": members, "chain": c} for members, c in ((kept, chain), (plain, undecayed)) if members]


def large_batch(
    chain: Chain, batch: int, to: int, rule: RuleName, warm: int, then: Schedule, noise_scale: float | None = None
) -> MethodChain:
    """``rescale``, with a gradual warm-up: the rate rises from the old one to the new over ``warm`` steps, then follows ``then``.

    ``then`` is a decay from 1, such as ``cosine(9_500)`` (Goyal et al., arXiv:1706.02677, section 2.2). Only the rate warms up;
    lr must be a number.
    """
    moved = rescale(chain, batch, to, rule, noise_scale)
    old, new = chain.hypers["lr"], moved.values["lr"]
    if isinstance(old, Schedule) or isinstance(new, Schedule):
        raise InvalidValueError(
            f"large_batch got lr={old!r}, a schedule. Expected a number, from which it makes warm-up and decay. Pass the peak rate, and the decay as then."
        )
    if warm < 1:
        raise InvalidValueError(
            f"large_batch got warm={warm!r}. Expected at least one step of warm-up. Write for example warm=500."
        )
    up = float(old) + float(new - old) * warmup(warm)
    return moved.rebuild({"lr": up >> float(new) * then})


@claim(
    "no_decay_groups",
    "no L2 regularisation on bias parameters nor on batch norm's",
    "lecture, slide 'Sanity Check'; Nado et al., arXiv:2102.06356",
)
def spared(lab):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0)
    chain = adamw(lr=0.1, weight_decay=0.5)
    optimizer = Optimizer(no_decay_groups(model, chain), chain, fuse="eager")
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        yield lab.equal(p.detach(), 0.95 if name in ("0.weight", "2.weight") else 1.0)


@claim(
    "large_batch",
    "start from the small batch's rate, and increase it by a constant amount per step up to k times",
    "arXiv:1706.02677, section 2.2, gradual warm-up",
)
def gradual(lab):
    lr = large_batch(sgd(lr=0.1, momentum=0.9), 256, 8192, "linear", warm=100, then=cosine(900)).values["lr"]
    yield lab.close([lr(100), lr(101)], 3.2)
    yield lab.close([lr(t + 1) - lr(t) for t in range(1, 100)], 3.1 / 100)
    yield lab.close(lr(1), 0.1 + 3.1 / 100)
