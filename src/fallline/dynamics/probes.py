"""Probes: what costs several gradients, taken now and then on a fixed batch. Curvature and its threshold, noise, attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fallline.core.errors import FalllineError
from fallline.core.oracle import Batch, Oracle
from fallline.core.transform import Chain
from fallline.curvature import Eigenpairs, eigsh, gradient, hessian, preconditioned
from fallline.curvature.batches import deterministic
from fallline.flows import Stability, stability

__all__ = ["Attention", "Curvature", "first_not_finite", "opposing", "watch_attention"]


@dataclass
class Curvature:
    """Sharpness along a run: the largest eigenvalue of the Hessian, or of :math:`P^{-1/2} H P^{-1/2}` where the method divides by P,
    against the threshold that the method's own steps have on a quadratic (``flows.stability``). Starts where the last probe ended."""

    oracle: Oracle
    tol: float = 0.05
    max_products: int = 15
    last: Eigenpairs | None = None

    def take(
        self, batch: Batch, optimizer: torch.optim.Optimizer, chain: Chain | None, step: int
    ) -> tuple[dict[str, float], Stability | None]:
        """``sharpness``, ``threshold``, ``share`` of it, ``overlap`` of the gradient with the direction, ``curvature_along_gradient``."""
        limit = None if chain is None else _stability(chain, step)
        operator = hessian(self.oracle, batch)
        if limit is not None and limit.preconditioned:
            try:
                operator = preconditioned(operator, optimizer, self.oracle)
            except FalllineError:  # no such P yet, or one that is not known
                limit = None
        pairs = eigsh(operator, tol=self.tol, max_products=self.max_products, start=self.last)
        self.last = pairs
        g = operator.domain.flatten(gradient(self.oracle, batch))
        found = {"sharpness": float(pairs.values[0]), "overlap": pairs.share(g)}
        size = float(g.square().sum())
        found["curvature_along_gradient"] = float(operator.quadratic(g)) / size if size > 0 else math.nan
        if limit is not None and limit.threshold:
            found |= {"threshold": limit.threshold, "share": found["sharpness"] / limit.threshold}
        return found, limit


def _stability(chain: Chain, step: int) -> Stability | None:
    try:
        return stability(chain, step=step)
    except FalllineError:
        return None


@dataclass(frozen=True)
class Attention:
    """The largest logit of any softmax, and the smallest mean entropy of a call, in nats."""

    largest_logit: float
    smallest_entropy: float
    calls: int


class _Attention(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.logits: list[float] = []
        self.entropies: list[float] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            self._note(*args, **kwargs)
        return func(*args, **kwargs)

    def _note(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> None:  # fmt: skip
        if enable_gqa:
            key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        logits = query.float() @ key.float().transpose(-2, -1) * (scale or query.shape[-1] ** -0.5)
        if is_causal:
            allowed = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
            logits = logits.masked_fill(~allowed, -torch.inf)
        elif attn_mask is not None:
            logits = logits.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype is torch.bool else logits + attn_mask
        weights = logits.softmax(-1)
        self.logits.append(float(logits.max()))
        self.entropies.append(float(-torch.xlogy(weights, weights).sum(-1).mean()))


def watch_attention(oracle: Oracle, batch: Batch) -> Attention | None:
    """Logits and entropies of every call of ``scaled_dot_product_attention`` on a batch; None for a model without any."""
    with torch.no_grad(), deterministic(oracle.module), _Attention() as seen:
        oracle.loss(oracle.params, batch)
    if not seen.logits:
        return None
    return Attention(max(seen.logits), min(seen.entropies), len(seen.logits))


def opposing(
    oracle: Oracle, before: Mapping[str, Tensor], after: Mapping[str, Tensor], batch: Batch, num: int = 5
) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """Examples whose losses a step lowered most, and those it raised most: (place in the batch, change). Where both changes are large, the
    step follows signals that oppose one another (Rosenfeld & Risteski, arXiv:2311.04163)."""
    with torch.no_grad(), deterministic(oracle.module):
        change = oracle.losses(dict(after), batch) - oracle.losses(dict(before), batch)
    order = change.argsort()
    pick: Callable[[Tensor], list[tuple[int, float]]] = lambda places: [(int(i), float(change[i])) for i in places]  # noqa: E731
    return pick(order[:num]), pick(order.flip(0)[:num])


def first_not_finite(oracle: Oracle, batch: Batch) -> str | None:
    """The first module, in the order of calls, whose output on the batch is not finite; None if all are."""
    found: list[str] = []

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            if isinstance(out, Tensor) and out.is_floating_point() and not bool(out.isfinite().all()):
                found.append(name)

        return hook

    leaves = [(name, m) for name, m in oracle.module.named_modules() if not any(m.children())]
    handles = [m.register_forward_hook(look(name)) for name, m in leaves]
    try:
        with torch.no_grad(), deterministic(oracle.module):
            oracle.loss(oracle.params, batch)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
