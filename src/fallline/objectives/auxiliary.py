r"""A main loss and one that comes second: gradient surgery that keeps the auxiliary loss from undoing the main one's descent."""

from __future__ import annotations

import torch
from torch import Tensor

from fallline.core.claims import claim
from fallline.core.errors import InvalidValueError
from fallline.core.evaluate import RandomState
from fallline.core.oracle import Batch, Gradients, Oracle, of_module
from fallline.core.types import Params
from fallline.objectives.base import Objective, at_least, flat, replayed, unflatten
from fallline.objectives.problems import classifier

__all__ = ["bloop", "dynamic_barrier"]


def bloop(main: Oracle, auxiliary: Oracle, weight: float = 1.0, decay: float = 0.99) -> Objective:
    r"""The main gradient plus the part of the auxiliary one that is orthogonal to the main gradient's running mean.

    .. math:: d = g + \lambda \Big(a - \frac{\langle a, m \rangle}{\lVert m \rVert^2} m\Big), \qquad
        m \leftarrow \mathrm{decay}\, m + (1 - \mathrm{decay})\, g

    g and a are the batch's gradients, m starts at the first g and moves after each step, in ``state["mean"]``. With decay = 0 the
    projection is off the last batch's gradient. Hsieh et al. 2024, arXiv:2402.02998.
    """
    return _Bloop(main, auxiliary, at_least("weight", weight, 0.0), at_least("decay", decay, 0.0, high=1 - 1e-12))


def dynamic_barrier(main: Oracle, auxiliary: Oracle, share: float = 0.5) -> Objective:
    r"""The direction nearest to the auxiliary gradient along which the main loss falls at least as fast as ``share`` of its own descent.

    .. math:: d = a + \lambda g, \qquad \lambda = \max\Big(0, \frac{\beta \lVert g \rVert^2 - \langle a, g \rangle}{\lVert g \rVert^2}\Big)

    with :math:`\beta` the ``share``; minimises the auxiliary loss among the minima of the main one. Gong, Liu and Liu 2021, "Automatic and
    harmless regularization with constrained and lexicographic optimization: a dynamic barrier approach", NeurIPS.
    """
    return _Barrier(main, auxiliary, at_least("share", share, 0.0))


class _Auxiliary(Objective):
    """Two losses of a module; the loss is the main one."""

    changes = "gradient"

    def __init__(self, inner: Oracle, auxiliary: Oracle) -> None:
        super().__init__(inner)
        if auxiliary.module is not inner.module:
            raise InvalidValueError(
                "The auxiliary oracle is of another module than the main one. Expected two losses of the module that is trained. "
                "Make both from the same model."
            )
        self.auxiliary = auxiliary

    def gradients(self, params: Params, batch: Batch, statistics: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The main loss, its gradient and the auxiliary one's, as vectors."""
        start = RandomState(params.values())
        value, g = self.inner.value_and_grad(params, batch, statistics=statistics)
        with replayed(params, start):
            a = self.auxiliary.value_and_grad(params, batch)[1]
        return value, flat(g), flat(a)


class _Bloop(_Auxiliary):
    def __init__(self, inner: Oracle, auxiliary: Oracle, weight: float, decay: float) -> None:
        super().__init__(inner, auxiliary)
        self.weight, self.decay = weight, decay

    def value_and_grad(self, params: Params, batch: Batch, *, statistics: bool = False) -> tuple[Tensor, Gradients]:
        value, g, a = self.gradients(params, batch, statistics)
        m = self.state.get("mean")
        if m is None:
            m = self.mean_over_ranks({"mean": g})["mean"]
        squared = m @ m
        d = g + self.weight * (a - (a @ m) / torch.where(squared == 0, 1.0, squared) * m)
        if statistics:
            self.state["mean"] = m.lerp(self.mean_over_ranks({"mean": g})["mean"], 1 - self.decay)
        return value, unflatten(d, params)


class _Barrier(_Auxiliary):
    def __init__(self, inner: Oracle, auxiliary: Oracle, share: float) -> None:
        super().__init__(inner, auxiliary)
        self.share = share

    def value_and_grad(self, params: Params, batch: Batch, *, statistics: bool = False) -> tuple[Tensor, Gradients]:
        value, g, a = self.gradients(params, batch, statistics)
        squared = g @ g
        weight = ((self.share * squared - a @ g) / torch.where(squared == 0, 1.0, squared)).clamp_min(0)
        return value, unflatten(a + weight * g, params)


# -- claims -----------------------------------------------------------------------------------------------------------------


def _pair() -> tuple[Oracle, Oracle, Batch]:
    main, batch = classifier()
    return main, of_module(main.module, lambda out, y: 5 * out.square().mean()), batch


@claim(
    "bloop",
    "what is added of the auxiliary gradient is orthogonal to the running mean, which is the batches' mean gradient",
    where="arXiv:2402.02998, on the full-batch and the stochastic direction",
)
def added_part_is_orthogonal(lab):
    main, auxiliary, batch = _pair()
    objective = bloop(main, auxiliary, weight=0.7, decay=0.5)
    halves = [tuple(x[:12] for x in batch), tuple(x[12:] for x in batch)]
    gradients = [flat(main.value_and_grad(main.params, half)[1]) for half in halves]
    first = flat(objective.value_and_grad(main.params, halves[0], statistics=True)[1])
    yield lab.close((first - gradients[0]) @ gradients[0] + 1, 1.0)
    second = flat(objective.value_and_grad(main.params, halves[1], statistics=True)[1])
    yield lab.close((second - gradients[1]) @ gradients[0] + 1, 1.0)  # the mean was the first gradient
    yield lab.equal(objective.state["mean"], (gradients[0] + gradients[1]) / 2)
    yield lab.less(1e-3, float((second - gradients[1]).norm()))


@claim(
    "bloop", "with g = m, descent on the main loss is to first order that of its own gradient", where="arXiv:2402.02998"
)
def main_loss_falls_alike(lab):
    main, auxiliary, batch = _pair()
    g = flat(main.value_and_grad(main.params, batch)[1])
    yield lab.close(g @ flat(bloop(main, auxiliary, 3.0).value_and_grad(main.params, batch)[1]), g @ g)


@claim(
    "dynamic_barrier",
    "d is the point nearest to the auxiliary gradient in the half-space of sufficient main descent",
    where="Gong et al. 2021, NeurIPS",
)
def barrier_is_a_projection(lab):
    main, auxiliary, batch = _pair()
    g, a = (flat(o.value_and_grad(o.params, batch)[1]) for o in (main, auxiliary))
    held, free = float(a @ g / (g @ g)) + 0.5, float(a @ g / (g @ g)) - 0.5
    if free >= 0:
        yield lab.equal(flat(dynamic_barrier(main, auxiliary, free).value_and_grad(main.params, batch)[1]), a)
    d = flat(dynamic_barrier(main, auxiliary, max(held, 0.1)).value_and_grad(main.params, batch)[1])
    yield lab.close(d @ g, max(held, 0.1) * g @ g)
    others = d + 0.1 * torch.randn(1000, len(d), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inside = others[others @ g >= d @ g]
    yield lab.less(float((d - a).norm()), float((inside - a).norm(dim=1).min()))
