"""Which parameters are hidden matrices, for methods such as Muon, and which are better left to AdamW."""

from __future__ import annotations

import glob

from torch import nn

from fallline.core.errors import InvalidTypeError, InvalidValueError
from fallline.core.groups import matches
from fallline.core.method import METHODS
from fallline.core.transform import Chain

__all__ = ["muon_groups"]


def muon_groups(
    model: nn.Module, matrices: Chain | None = None, others: Chain | None = None, head: str = ""
) -> dict[str, Chain]:
    """Rules for ``Optimizer``: hidden matrices (linear and convolutional weights) to ``matrices``, by default ``muon()``; embeddings, the
    head, biases, norms and all other vectors to ``others``, by default ``adamw()``.

    ``head`` is a pattern of names as in ``groups``; without it the head is the linear layer that is registered last. Weights tied to an
    embedding belong to the embedding.

    optimizer = Optimizer(model, muon_groups(model))
    optimizer = Optimizer(model, muon_groups(model, muon(lr=0.02, scale="keller_jordan"), adamw(lr=3e-4), head="lm_head*"))
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(
            f"muon_groups() got {type(model).__name__} instead of a model. It needs to know which modules are embeddings. Pass the nn.Module."
        )
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    last = {id(linear[-1].weight)} if linear and not head else set()
    hidden: list[str] = []
    rest: list[str] = []
    for name, p in model.named_parameters():
        apart = p.dim() < 2 or id(p) in embeddings | last or (bool(head) and matches(name, head))
        (rest if apart else hidden).append(name)
    if not hidden:
        raise InvalidValueError(
            f"muon_groups() found no hidden matrix among {len(rest)} parameters. Expected weights of two or more dimensions beside "
            f"embeddings and the head. Use adamw() for this model, or name the head: head='classifier*'."
        )
    rules = {"|".join(map(glob.escape, hidden)): METHODS["muon"]() if matrices is None else matrices}
    return {**rules, "*": METHODS["adamw"]() if others is None else others} if rest else rules
