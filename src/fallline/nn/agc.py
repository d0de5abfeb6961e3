"""Adaptive gradient clipping as rules for an optimizer: everything is clipped unit by unit, but the head is not."""

from __future__ import annotations

import torch
from torch import nn

from fallline.core.claims import claim
from fallline.core.optimizer import Optimizer
from fallline.core.transform import Chain, Transform, chain
from fallline.nn.check import demand
from fallline.nn.init import WEIGHTED
from fallline.transforms import clip_by_unit_norm, descend

__all__ = ["agc_rules"]


def agc_rules(
    model: nn.Module,
    method: Transform | Chain,
    clipping: float = 0.01,
    eps: float = 1e-3,
    head: str | None = None,
    exclude: str = "",
) -> dict[str, Chain]:
    r"""Rules for ``fallline.Optimizer(model, rules)``: ``method`` after adaptive gradient clipping (``clip_by_unit_norm``), and
    ``method`` alone for the head, which Brock et al. leave out (arXiv:2102.06171, section 4.1).

    ``head`` is the module name of the last layer (None: the linear or convolutional layer that the model registers last); ``exclude``
    holds globs, separated by ``|``, on names of parameters that are not clipped either. A scalar that starts at 0 moves by at most
    ``lr * clipping * eps`` a step: over a few hundred steps SkipInit's ``"*.gain"`` needs to be excluded, or clipping never lets it start.

    Optimizer(model, agc_rules(model, nesterov(lr=0.1), clipping=0.01))
    """
    names = [name for name, m in model.named_modules() if isinstance(m, WEIGHTED)]
    head = names[-1] if head is None and names else head
    known = {name for name, _ in model.named_modules()} - {""}
    demand(
        head in known,
        f"agc_rules() found no head {head!r} in {type(model).__name__}",
        f"Expected the name of its last layer, one of {', '.join(sorted(known)) or 'none'}",
        "Pass head='fc', the name under which the model registers it",
    )
    return {
        f"{head}.*" + (f"|{exclude}" if exclude else ""): chain(method),
        "*": chain(clip_by_unit_norm(clipping, eps), method),
    }


@claim("agc_rules", "no unit's step is longer than lr x clipping x its norm, and the head's is its gradient", where="arXiv:2102.06171, eq. 3 and section 4.1")  # fmt: skip
def bound_and_head(lab):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).double()
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = Optimizer(net, agc_rules(net, descend(0.5), clipping=0.01), fuse="eager")
    (1e3 * net(torch.randn(8, 5, dtype=torch.float64)).square().sum()).backward()
    gradients = [p.grad.clone() for p in net.parameters()]
    optimizer.step()
    steps = [b - p.detach() for b, p in zip(before, net.parameters(), strict=True)]
    yield lab.close(steps[0].norm(dim=1), 0.5 * 0.01 * before[0].norm(dim=1))  # all were too long
    yield lab.close(
        steps[0] / steps[0].norm(dim=1, keepdim=True), gradients[0] / gradients[0].norm(dim=1, keepdim=True)
    )
    yield lab.close(steps[2], 0.5 * gradients[2])
