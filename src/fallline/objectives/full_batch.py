r"""All data at every step: the gradient of a sequence of batches, each with whatever regulariser the oracle inside adds.

.. math:: \nabla \sum_b \frac{n_b}{n} L_b(\theta)
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.core.oracle import Batch, Gradients, Oracle
from fallline.core.types import Params
from fallline.objectives.base import Objective, flat
from fallline.objectives.problems import quadratic

__all__ = ["accumulated"]


def accumulated(oracle: Oracle) -> Objective:
    r"""An oracle of a sequence of batches: the mean of their losses and gradients, weighted by their numbers of examples.

    Full-batch training that generalises as SGD does (Geiping et al. 2022, arXiv:2109.14119) regularises each batch's gradient,
    which SGD does implicitly, and clips the gradient of all::

        objective = accumulated(finite_difference_penalty(oracle, weight=lr / 2))
        optimizer = fallline.Optimizer(model, chain(clip_by_global_norm(0.25), heavy_ball(lr)))
        objective.backward(batches)
    """
    return _Accumulated(oracle)


class _Accumulated(Objective):
    def loss(self, params: Params, batch: Sequence[Batch], *, statistics: bool = False) -> Tensor:
        shares = self._shares(batch)
        terms = [s * self.inner.loss(params, b, statistics=statistics) for s, b in zip(shares, batch, strict=True)]
        return sum(terms[1:], start=terms[0])

    def value_and_grad(
        self, params: Params, batch: Sequence[Batch], *, statistics: bool = False
    ) -> tuple[Tensor, Gradients]:
        value: Tensor | float = 0.0
        total: Gradients = {}
        for share, part in zip(self._shares(batch), batch, strict=True):
            found, g = self.inner.value_and_grad(params, part, statistics=statistics)
            value = value + share * found
            total = {n: share * x if n not in total else total[n] + share * x for n, x in g.items()}
        assert isinstance(value, Tensor)
        return value, total

    def num_examples(self, batch: Sequence[Batch]) -> int:
        return sum(self.inner.num_examples(b) for b in batch)

    def _shares(self, batch: Sequence[Batch]) -> list[float]:
        if not isinstance(batch, Sequence) or not batch:
            raise InvalidValueError(
                f"accumulated() got {'an empty sequence' if isinstance(batch, Sequence) else type(batch).__name__} for its batch. "
                f"Expected a list of batches. Pass for example list(loader)."
            )
        sizes = [self.inner.num_examples(b) for b in batch]
        return [n / sum(sizes) for n in sizes]


@claim(
    "accumulated",
    "batches of unequal size have the loss and the gradient of all their examples at once",
    where="arXiv:2109.14119",
)
def parts_are_the_whole(lab):
    oracle, batch, _, _ = quadratic()
    value, g = oracle.value_and_grad(oracle.params, batch)
    parts = [(x,) for x in batch[0].split([1, 2, 3])]
    found, h = accumulated(oracle).value_and_grad(oracle.params, parts)
    yield lab.equal(found, value)
    yield lab.equal(flat(h), flat(g))
