"""Several losses of one model, or of one model's classes: their gradients one by one, joined by a rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.core.evaluate import RandomState
from fallline.core.oracle import Batch, Gradients, Oracle, gradient, of_module
from fallline.core.types import Params
from fallline.objectives.base import Objective, differentiable, flat, replayed, unflatten
from fallline.objectives.problems import classifier
from fallline.objectives.rules import normalised

__all__ = ["Rule", "Several", "by_class", "several"]

Rule = Callable[[Tensor], Tensor]
"""Gradients of the losses (losses, numbers) to one direction (numbers,): ``pcgrad``, ``config``, ``imtl``, ``normalised``."""


class Several(Objective):
    """Losses in a row, ``losses_of(params, batch, statistics)`` of shape (losses,), computed together and differentiated one by one.

    The loss is their sum. Where a loss is constant, as that of a class that the batch lacks, the rule is not told of it.
    """

    changes = "gradient"

    def __init__(self, inner: Oracle, losses_of: Callable[[Params, Batch, bool], Tensor], rule: Rule) -> None:
        super().__init__(inner)
        self.losses_of, self.rule = losses_of, rule

    def loss(self, params: Params, batch: Batch, *, statistics: bool = False) -> Tensor:
        return self.losses_of(params, batch, statistics).sum()

    def value_and_grad(self, params: Params, batch: Batch, *, statistics: bool = False) -> tuple[Tensor, Gradients]:
        values, rows = self.rows(params, batch, statistics)
        present = rows[rows.abs().amax(1) != 0]
        if len(present) == 0 or not bool(present.isfinite().all()):  # the optimizer is to see what is not finite
            return values.sum(), unflatten(rows.sum(0), params)
        found = self.rule(present)
        return values.sum(), unflatten(found, params)

    def rows(self, params: Params, batch: Batch, statistics: bool = False) -> tuple[Tensor, Tensor]:
        """The losses, shape (losses,), and their gradients, shape (losses, numbers), in the order of the parameters."""
        with torch.enable_grad():
            own = {n: p.detach().requires_grad_() for n, p in params.items()}
            values = self.losses_of(own, batch, statistics)
            last = len(values) - 1
            found = [gradient(v, own, keep=i < last) for i, v in enumerate(values)]
        return values.detach(), torch.stack([flat(g) for g in found])


def several(oracles: Sequence[Oracle], rule: Rule) -> Several:
    """Losses of the same module on the same batch, joined by a rule; the first one's pass updates the buffers.

    objective = several([of_module(model, F.mse_loss), of_loss(model, boundary)], rule=config)
    """
    if len(oracles) < 2 or any(o.module is not oracles[0].module for o in oracles):
        raise InvalidValueError(
            f"several() got {len(oracles)} oracles of {len({id(o.module) for o in oracles})} modules. Expected at least two oracles "
            f"of one module. Make them all from the same model."
        )

    for oracle in oracles:
        differentiable(oracle, "several")

    def losses_of(params: Params, batch: Batch, statistics: bool) -> Tensor:
        start = RandomState(params.values())
        first = oracles[0].loss(params, batch, statistics=statistics)
        rest = []
        for oracle in oracles[1:]:
            with replayed(params, start):
                rest.append(oracle.loss(params, batch))
        return torch.stack([first, *rest])

    return Several(oracles[0], losses_of, rule)


def by_class(
    oracle: Oracle, num_classes: int, rule: Rule = normalised, labels: Callable[[Batch], Tensor] | None = None
) -> Several:
    r"""Each class's mean loss is a loss of its own, from one forward pass; ``normalised`` makes it per-class normalised descent.

    .. math:: \sum_c \nabla L_c / \lVert \nabla L_c \rVert, \qquad L_c = \frac{1}{n_c} \sum_{i : y_i = c} \ell_i

    ``labels`` finds the classes (examples,) in a batch; they are its second part if left out. Francazi et al. 2023, arXiv:2207.00391.
    """
    find = labels or (lambda batch: batch[1])

    def losses_of(params: Params, batch: Batch, statistics: bool) -> Tensor:
        losses = oracle.losses(params, batch, statistics=statistics)
        belongs = F.one_hot(find(batch), num_classes).to(losses)
        return losses @ belongs / belongs.sum(0).clamp_min(1)

    return Several(oracle, losses_of, rule)


# -- claims -----------------------------------------------------------------------------------------------------------------


@claim("several", "with the sum as its rule, the gradient is that of the sum of the losses", where="the chain rule")
def sum_is_the_sum(lab):
    oracle, batch = classifier()
    other = of_module(oracle.module, lambda out, y: out.square().mean())
    found = several([oracle, other], rule=lambda rows: rows.sum(0)).value_and_grad(oracle.params, batch)
    together = of_module(oracle.module, lambda out, y: F.cross_entropy(out, y) + out.square().mean())
    expected = together.value_and_grad(oracle.params, batch)
    yield lab.equal(found[0], expected[0])
    yield lab.equal(flat(found[1]), flat(expected[1]))


@claim(
    "by_class",
    "under imbalance 60 to 1, descent raises the minority's loss at first; per-class normalised, every step lowers every class's loss",
    where="arXiv:2207.00391, on PCNGD",
)
def every_class_falls(lab):
    made = torch.Generator().manual_seed(0)
    sizes, centres = (120, 2), torch.tensor([[1.0, 0.5], [-0.2, 0.5]], dtype=torch.float64)
    inputs = torch.cat(
        [c + 0.7 * torch.randn(n, 2, generator=made, dtype=torch.float64) for n, c in zip(sizes, centres, strict=True)]
    )
    batch = (inputs, torch.repeat_interleave(torch.arange(2), torch.tensor(sizes)))
    module = nn.Linear(2, 2).double()
    oracle = of_module(module, F.cross_entropy)
    objective = by_class(oracle, 2)
    histories = []
    for way in (oracle, objective):
        for p in module.parameters():
            nn.init.zeros_(p)
        history = []
        for _ in range(60):
            history.append(objective.rows(oracle.params, batch)[0])
            module.zero_grad()
            way.backward(batch)
            with torch.no_grad():
                for p in module.parameters():
                    p -= 0.02 * p.grad
        histories.append(torch.stack(history))
    plain, normal = histories
    yield lab.less(float(plain[0, 1]) + 0.1, float(plain[:, 1].max()))
    yield lab.less(float(normal.diff(dim=0).max()), 0.0)
