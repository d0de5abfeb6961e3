r"""Several domains, a batch of each: gradients that agree between them, by an inner product or by a walk through them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.core.oracle import Batch, Gradients, Oracle
from fallline.core.types import Params
from fallline.objectives.base import Objective, at_least, differentiable, flat
from fallline.objectives.problems import quadratic

__all__ = ["fish", "idgm"]


def fish(oracle: Oracle, inner_lr: float) -> Objective:
    r"""The way that one step of SGD on each domain's batch goes, per step and rate; the batch is a list with one batch of each domain.

    .. math:: \tilde\theta \leftarrow \tilde\theta - \alpha \nabla L_d(\tilde\theta), \ d = 1 \ldots k, \qquad
        \frac{\theta - \tilde\theta}{\alpha k}

    To first order in :math:`\alpha` it is ``idgm``'s gradient, without a second derivative. Shuffle the domains. The paper moves by
    :math:`\epsilon (\tilde\theta - \theta)`: plain SGD with rate :math:`\epsilon \alpha k`. Shi et al. 2022, arXiv:2104.09937, algorithm 1.
    """
    return _Fish(oracle, at_least("inner_lr", inner_lr, 0.0, above=True))


def idgm(oracle: Oracle, weight: float) -> Objective:
    r"""The mean loss of the domains less the mean inner product of their gradients, differentiated twice.

    .. math:: \frac{1}{k} \sum_d L_d - \gamma \frac{2}{k (k - 1)} \sum_{i < j} \langle \nabla L_i, \nabla L_j \rangle

    Inter-domain gradient matching; the batch is a list with one batch of each domain. Shi et al. 2022, arXiv:2104.09937.
    """
    return _Matching(differentiable(oracle, "idgm"), at_least("weight", weight, 0.0))


class _Domains(Objective):
    def loss(self, params: Params, batch: Sequence[Batch], *, statistics: bool = False) -> Tensor:
        return torch.stack([self.inner.loss(params, b, statistics=statistics) for b in self.domains(batch)]).mean()

    def num_examples(self, batch: Sequence[Batch]) -> int:
        return sum(self.inner.num_examples(b) for b in batch)

    def domains(self, batch: Sequence[Batch]) -> list[Batch]:
        if not isinstance(batch, Sequence) or len(batch) < 2 or any(isinstance(b, Tensor) for b in batch):
            raise InvalidValueError(
                f"The batch is {type(batch).__name__} of {len(batch) if isinstance(batch, Sequence) else 1}. Expected a list with a batch of "
                f"each domain, at least two. Pass for example [(inputs_a, targets_a), (inputs_b, targets_b)]."
            )
        return list(batch)


class _Fish(_Domains):
    changes = "gradient"

    def __init__(self, inner: Oracle, inner_lr: float) -> None:
        super().__init__(inner)
        self.inner_lr = inner_lr

    def value_and_grad(
        self, params: Params, batch: Sequence[Batch], *, statistics: bool = False
    ) -> tuple[Tensor, Gradients]:
        parts = self.domains(batch)
        total = {n: torch.zeros_like(p) for n, p in params.items()}
        values = []
        for part in parts:
            point = {n: p.detach() - self.inner_lr * total[n] for n, p in params.items()}
            value, g = self.inner.value_and_grad(point, part, statistics=statistics)
            values.append(value)
            total = {n: x + g[n] for n, x in total.items()}
        return torch.stack(values).mean(), {n: x / len(parts) for n, x in total.items()}


class _Matching(_Domains):
    def __init__(self, inner: Oracle, weight: float) -> None:
        super().__init__(inner)
        self.weight = weight

    def loss(self, params: Params, batch: Sequence[Batch], *, statistics: bool = False) -> Tensor:
        with torch.enable_grad():
            own = {n: p if p.requires_grad else p.detach().requires_grad_() for n, p in params.items()}
            values = [self.inner.loss(own, b, statistics=statistics) for b in self.domains(batch)]
            slopes = [
                torch.autograd.grad(v, list(own.values()), create_graph=True, materialize_grads=True) for v in values
            ]
            pairs = [
                torch.stack([(a * b).sum() for a, b in zip(x, y, strict=True)]).sum()
                for x, y in combinations(slopes, 2)
            ]
            return torch.stack(values).mean() - self.weight * torch.stack(pairs).mean()


# -- claims -----------------------------------------------------------------------------------------------------------------


@claim(
    "fish",
    "the mean over both orders of two domains is IDGM's gradient with weight inner_lr / 4, exactly on quadratics",
    where="arXiv:2104.09937, on Fish as first-order IDGM",
)
def fish_is_idgm_to_first_order(lab):
    oracle, batch, _, _ = quadratic()
    parts = [(batch[0][:2],), (batch[0][2:],)]
    walk = fish(oracle, 0.2)
    both = [flat(walk.value_and_grad(oracle.params, order)[1]) for order in (parts, parts[::-1])]
    yield lab.equal(sum(both) / 2, flat(idgm(oracle, 0.05).value_and_grad(oracle.params, parts)[1]))


@claim(
    "idgm",
    "on quadratics of curvature H the gradient is the mean one less weight H (g_1 + g_2)",
    where="arXiv:2104.09937",
)
def idgm_closed_form(lab):
    oracle, batch, h, _ = quadratic()
    parts = [(batch[0][:2],), (batch[0][2:],)]
    g = [flat(oracle.value_and_grad(oracle.params, part)[1]) for part in parts]
    found, gradient = idgm(oracle, 0.3).value_and_grad(oracle.params, parts)
    yield lab.equal(flat(gradient), (g[0] + g[1]) / 2 - 0.3 * h @ (g[0] + g[1]))
    values = torch.stack([oracle.loss(oracle.params, part).detach() for part in parts])
    yield lab.equal(found, values.mean() - 0.3 * g[0] @ g[1])
